"""What the tests of decoding share: checkpoints that every PE sees, models on PEs, logits of the whole vocabulary."""

import atexit
import functools
import itertools
import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
from checkpoints import make

import shmemtp

PROMPT = np.random.default_rng(3).integers(0, 96, 20).tolist()
CONTEXT = 2048  # the same for most tests, so that they share a kernel
MADE = itertools.count()  # checkpoints: every one has a folder of its own, which nobody writes again
TOLERANCE = 1e-2  # of a step's logits: the norm of the error over the norm of what is right


def heads_for(pes: int) -> int:
    """12 query heads, or as many more as so many PEs can share."""
    return math.lcm(12, pes)


@functools.cache
def _folder(pe) -> Path:
    """A folder that PE 0 makes and all PEs read; it is gone when PE 0 ends."""
    folder = tempfile.mkdtemp(prefix="shmemtp-test-") if pe.rank == 0 else None
    if pe.rank == 0:
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(pe.comm.bcast(folder))


@functools.cache
def checkpoint(pe, name: str, architecture: str = "llama", finish=None, ratio: int = 3, **overrides) -> Path:
    """Collective: the checkpoint called `name`, made once. `finish(folder)`, on PE 0, may change its weights.

    ratio : query heads that share a KV head. overrides : as `checkpoints.make` takes them.
    """
    folder = _folder(pe) / f"{name}-{next(MADE)}"
    heads = heads_for(pe.size)
    if pe.rank == 0:
        heads = {"num_attention_heads": heads, "num_key_value_heads": heads // ratio}
        make(folder, architecture, **{**heads, "max_position_embeddings": CONTEXT, **overrides})
        if finish is not None:
            finish(folder)
    pe.barrier()
    return folder


@functools.cache
def model(pe, folder, record_logits: int = 0, max_context: int = CONTEXT, **options) -> shmemtp.LLM:
    """Collective: an LLM on all PEs, made once for these options."""
    return shmemtp.LLM(folder, pe, max_context=max_context, record_logits=record_logits, **options)


def launch_options(launch) -> dict[str, int]:
    """Plan options for a launch (grid, block, warp); none where it is None."""
    return dict(zip(("multiprocessors", "block", "warp"), launch, strict=True)) if launch else {}


def decode(llm, prompt, count: int, **options) -> list[int]:
    """The request's tokens, which are the same on all PEs; it has no stop tokens unless `options` says some."""
    tokens = llm.generate(prompt, max_new_tokens=count, **{"stop_tokens": (), **options}).token_ids
    assert llm.team.comm.allgather(tokens) == [tokens] * llm.team.size
    return tokens


def logits_of(llm, count: int) -> np.ndarray:
    """Collective: the last request's logits, float32 [count, vocab], gathered from the PEs' slices."""
    slices = llm.team.comm.allgather(llm.loop.logits()[:count])
    return np.concatenate(slices, axis=1)[:, : llm.config.vocab]


def bits(logits: np.ndarray) -> np.ndarray:
    """What must be equal where logits are to be bitwise equal."""
    return logits.view(np.uint32)


def assert_close(logits, right, tokens):
    """Every step's logits are right within TOLERANCE, and its token where the best one leads by more than the error.

    logits, right : float32 [steps, vocab]. tokens : the steps' greedy choices.
    """
    errors = np.linalg.norm(logits - right, axis=1) / np.linalg.norm(right, axis=1)
    assert errors.max() < TOLERANCE, f"relative errors {errors}"
    second, first = np.sort(right, axis=1)[:, -2:].T
    certain = first - second > 2 * np.abs(logits - right).max(axis=1)
    assert certain.any(), "no step's best token leads by more than the error: the test says nothing of tokens"
    assert [t for t, sure in zip(tokens, certain, strict=True) if sure] == right.argmax(axis=1)[certain].tolist()
