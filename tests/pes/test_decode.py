"""Decoding is right: the logits and tokens of every architecture, ratio and launch, on every PE, in every run."""

import numpy as np
import pytest
from checkpoints import random_weights, save
from decoding import PROMPT, assert_close, bits, checkpoint, decode, launch_options, logits_of, model
from reference import Reference

from shmemtp.config import load_config
from shmemtp.device.backend import NAME
from shmemtp.device.cache import PAGE

COUNT = 12
MODELS = {
    "llama": ("llama", dict(ratio=3)),
    "llama-tied": ("llama", dict(ratio=1, hidden_size=72, tie_word_embeddings=True, dtype="fp32", shards=2)),
    "llama-one-kv-head": ("llama", dict(ratio=12, dtype="fp16")),
    "mistral": ("mistral", dict(ratio=2)),
    "qwen2": ("qwen2", dict(ratio=3, hidden_size=72, shards=3)),
    "qwen3": ("qwen3", dict(ratio=2, head_dim=24, tie_word_embeddings=True)),
}
LAUNCHES = [(2, 1, 1), (5, 2, 1), (3, 8, 4), (1, 16, 16)]  # grid, block, warp
if NAME == "gpu":  # where every model and launch is a kernel of its own, compiled for seconds: those that differ most
    MODELS = {name: MODELS[name] for name in ("llama", "qwen2", "qwen3")}
    LAUNCHES = [(1, 32, 32), (5, 256, 32)]


def by_transformers(folder, sequence, steps):
    """float32 [steps, vocab]: what transformers makes of the sequence's longest prefixes, itself the last."""
    torch = pytest.importorskip("torch", reason="the comparison with transformers needs torch")
    transformers = pytest.importorskip("transformers", reason="the comparison is with transformers")
    torch.set_num_threads(1)
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return reference(torch.tensor([sequence])).logits[0, -steps:].numpy()


def on_pe_0(pe, function, *args):
    """PE 0's result of `function`, on all PEs; where it skips, all skip."""
    outcome = None
    if pe.rank == 0:
        try:
            outcome = function(*args)
        except pytest.skip.Exception as skipped:
            outcome = str(skipped)
    outcome = pe.comm.bcast(outcome)
    if isinstance(outcome, str):
        pytest.skip(outcome)
    return outcome


def assert_like_reference(llm, folder, prompt, count):
    tokens = decode(llm, prompt, count)
    assert_close(logits_of(llm, count), Reference(folder).logits(prompt + tokens[:-1])[-count:], tokens)


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_tokens_are_those_of_transformers(pe, name):
    architecture, options = MODELS[name]
    folder = checkpoint(pe, name, architecture, **options)
    llm = model(pe, folder, record_logits=COUNT)
    tokens = decode(llm, PROMPT, COUNT)
    right = on_pe_0(pe, by_transformers, folder, PROMPT + tokens[:-1], COUNT)
    assert_close(logits_of(llm, COUNT), right, tokens)


@pytest.mark.parametrize("launch", LAUNCHES, ids=lambda launch: "x".join(map(str, launch)))
def test_every_launch_is_right(pe, launch):
    architecture, options = MODELS["qwen3"]  # lanes work together on its heads' norms; half a head is no power of two
    folder = checkpoint(pe, "qwen3", architecture, **options)
    # token by token: in a prompt's passes all threads meet, and 128 of them on two cores take their time
    llm = model(pe, folder, record_logits=COUNT, prefill_tokens=1, **launch_options(launch))
    assert (llm.plan.grid, llm.plan.block, llm.plan.warp) == launch
    assert_like_reference(llm, folder, PROMPT[:4], 4)


def test_a_context_in_parts(pe):
    """More positions than the parts take in a turn, and than a part's warps do; the parts are then merged."""
    folder = checkpoint(pe, "llama-one-kv-head", ratio=12, dtype="fp16")
    threads = dict(block=2, warp=1) if NAME == "emulator" else {}
    llm = model(pe, folder, record_logits=COUNT, multiprocessors=2, **threads)
    assert llm.plan.parts == 2
    assert 300 > llm.plan.memory.depth * llm.plan.parts * PAGE
    assert_like_reference(llm, folder, np.random.default_rng(5).integers(0, 96, 293).tolist(), 8)


@pytest.mark.parametrize("blocks", [2, 3])
def test_parts_of_which_some_begin_later(pe, blocks, monkeypatch):
    """One part has the context's beginning, the next one joins behind it; all of them take turns then."""
    monkeypatch.setattr("shmemtp.planner.ABREAST", 1)
    folder = checkpoint(pe, "llama-one-kv-head", ratio=12)
    threads = dict(block=2, warp=1) if NAME == "emulator" else {}
    llm = model(pe, folder, record_logits=COUNT, multiprocessors=blocks, prefill_tokens=1, **threads)
    assert (llm.plan.abreast, llm.plan.parts) == (1, blocks)
    span = llm.plan.memory.depth * PAGE
    count = span * (blocks + 1) + 5 if NAME == "emulator" else span + 2  # on GPUs a part takes 128 positions
    prompt = np.random.default_rng(6).integers(0, 96, count).tolist()
    assert_like_reference(llm, folder, prompt, 8)


@pytest.mark.parametrize("launch", [None, (3, 8, 1) if NAME == "emulator" else (5, 256, 32)], ids=["usual", "wide"])
def test_positions_that_the_request_itself_has_stored(pe, launch):
    """They come by the weight stream, whose feeder is ahead of those who store them: with more warps, by tokens."""
    count = 70 if NAME == "emulator" else 100
    folder = checkpoint(pe, "shallow", num_hidden_layers=1, intermediate_size=32)
    llm = model(pe, folder, record_logits=count, **launch_options(launch))
    assert (2 if launch else 1) <= llm.plan.memory.settling < count - 2 * PAGE
    assert_like_reference(llm, folder, PROMPT[:3], count)
    first = bits(logits_of(llm, count))
    decode(llm, PROMPT[:3], count)
    np.testing.assert_array_equal(bits(logits_of(llm, count)), first)


def test_shapes_that_fit_nothing(pe):
    """Padding everywhere: hidden, intermediate and vocabulary; the last of 4 PEs has no token of its own."""
    folder = checkpoint(pe, "odd", ratio=2, hidden_size=84, intermediate_size=20, vocab_size=17)
    assert_like_reference(model(pe, folder, record_logits=COUNT), folder, [token % 17 for token in PROMPT], COUNT)


def test_rows_of_several_tiles(pe):
    """Rows of o and of down are cut into other numbers of tiles; lm_head is multiplied in turns, the last one short."""
    folder = checkpoint(pe, "split", hidden_size=136, intermediate_size=400, vocab_size=2002 * pe.size)
    llm = model(pe, folder, record_logits=COUNT, max_tile_columns=64, multiprocessors=1)
    layout = llm.plan.layout
    assert layout.qkv.splits == 3 and 1 < layout.down.splits != layout.o.splits
    assert 0 < layout.lm_head.tiles_per_block % llm.plan.memory.lm_head_turn < layout.lm_head.tiles_per_block
    assert {1, 2} <= {product.quads_per_block % 4 for product in layout.products if product.splits > 1}
    assert_like_reference(llm, folder, PROMPT, COUNT)


def test_the_files_format_does_not_matter(pe):
    """The same numbers as bf16, fp16 and fp32, in one file or several."""
    logits = []
    for name, files in (("llama", {}), ("fp16", dict(dtype="fp16", shards=2)), ("fp32", dict(dtype="fp32", shards=3))):
        llm = model(pe, checkpoint(pe, name, **files), record_logits=COUNT)
        decode(llm, PROMPT, COUNT)
        logits.append(bits(logits_of(llm, COUNT)))
    np.testing.assert_array_equal(logits[1], logits[0])
    np.testing.assert_array_equal(logits[2], logits[0])


def test_put_is_bitwise_what_packets_are(pe):
    logits = []
    for algorithm in ("one-shot", "one-shot-put"):
        llm = model(pe, checkpoint(pe, "llama"), record_logits=COUNT, algorithm=algorithm, prefill_tokens=1)
        assert llm.algorithm == llm.plan.algorithm == algorithm
        decode(llm, PROMPT, COUNT)
        logits.append(bits(logits_of(llm, COUNT)))
    np.testing.assert_array_equal(*logits)


@pytest.mark.parametrize("launch", [None, LAUNCHES[1]], ids=["usual", "wide"])
def test_runs_are_bitwise_equal(pe, launch):
    """Whatever came first, and on whichever parity of the channels' slots a request begins."""
    llm = model(pe, checkpoint(pe, "llama"), record_logits=COUNT, **launch_options(launch))
    logits = []
    for before in ([], PROMPT[:4], PROMPT[:1]):
        if before:
            decode(llm, before, 1)
        decode(llm, PROMPT, 6)
        logits.append(bits(logits_of(llm, 6)))
    np.testing.assert_array_equal(logits[1], logits[0])
    np.testing.assert_array_equal(logits[2], logits[0])


def same_rows_on_every_pe(folder):
    """Rewrites the weights so that each PE's slice of lm_head holds the same rows."""
    config = load_config(folder)
    weights = random_weights(config, seed=0)
    head = weights["lm_head.weight"]
    weights["lm_head.weight"] = head[np.arange(config.vocab) % 12]
    save(folder / "model.safetensors", weights)


def test_the_hidden_state_is_bitwise_equal_on_every_pe(pe):
    """Where all PEs multiply the same rows of lm_head, logits are the same bits; of equals the first is chosen."""
    folder = checkpoint(pe, "same-rows", vocab_size=12 * pe.size, finish=same_rows_on_every_pe)
    llm = model(pe, folder, record_logits=COUNT)
    tokens = decode(llm, [token % 12 for token in PROMPT], COUNT)
    slices = pe.comm.allgather(bits(llm.loop.logits()))
    for other in slices:
        np.testing.assert_array_equal(other, slices[0])
    assert max(tokens) < 12
