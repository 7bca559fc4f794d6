"""Text in, text out: a Hugging Face checkpoint decoded by the PEs of a team."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .algorithm import choose
from .config import load_config
from .errors import InputError
from .log import LOG
from .loop import DecodeLoop
from .model import model_shape
from .plan import Plan
from .planner import MOST_TOKENS, make_plan
from .resident import ResidentModel
from .text import TextStream

__all__ = ["LLM", "Generation", "Token"]

USUAL_CONTEXT = 4096  # positions of the KV cache unless asked for others
LOAD_FORMATS = ("auto", "dummy")


class Token(NamedTuple):
    """A generated token: its id, and the text that it adds ("" while a character is incomplete)."""

    id: int
    text: str


@dataclass
class Generation:
    """A request's outcome. Times are this PE's: seconds to the first token, device milliseconds per further token."""

    prompt_ids: list[int]
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    stop_reason: str = ""
    prefill_s: float = 0.0
    ms_per_token: float | None = None


class LLM:
    """A model on the PEs of `team` (of all PEs by default). Collective: every PE makes the same calls.

    Parameters
    ----------
    model : a checkpoint folder, or a built-in name ("tiny" has weights, the others need load_format "dummy").
    load_format : "auto" reads safetensors, "dummy" fills the weights with random numbers.
    max_context : positions of the KV cache; the model's most, up to 4096, by default.
    algorithm : how PEs add partial sums: "one-shot" (packets, which need P2P reach), "one-shot-put" (NVSHMEM's
        put_signal) or "auto"; see `shmemtp.algorithm.choose`.
    plan_options : of `make_plan`, for tests and tuning: block, warp, multiprocessors (the most blocks),
        max_tile_columns, a multiple of 64, prefill_tokens (of a prompt, fed together, at most).
    """

    def __init__(
        self,
        model: str | Path,
        pe,
        load_format: str = "auto",
        max_context: int | None = None,
        algorithm: str = "auto",
        team=None,
        record_logits: int = 0,
        **plan_options,
    ):
        self.pe, self.team = pe, team or pe.team
        self.tp_size = self.team.size
        with pe.together:
            if load_format not in LOAD_FORMATS:
                raise InputError(f"there is no load format {load_format!r}: choose one of {', '.join(LOAD_FORMATS)}")
            self.config = load_config(model)
            dummy = load_format == "dummy"
            if self.config.folder is None and not dummy:
                raise InputError(f"{model} is a shape without weights: ask for load format dummy, or give a folder")
            context = self.config.context(max_context)
            if max_context is None:
                context = min(context, USUAL_CONTEXT)
            put = _choose_put(pe, algorithm, self.team)
            self.plan = _make_plan(model_shape(self.config, self.tp_size), context, pe, put, plan_options)
            self._tokenizer = _load_tokenizer(self.config.folder)
            began = time.perf_counter()
            resident = ResidentModel(pe.device, self.config, self.plan, self.team.rank, dummy)
            self.load_s = time.perf_counter() - began
        self.loop = DecodeLoop(pe, self.team, resident, record_logits)
        self.algorithm, self.compile_s = self.plan.algorithm, self.loop.compile_s
        LOG.info(
            "TP %d on the %s backend, %s, %d blocks of %d threads; loaded in %.1f s, kernel %s in %.1f s",
            *(self.tp_size, pe.backend, self.algorithm, self.plan.grid, self.plan.block, self.load_s),
            *("read from the cache" if self.loop.compile_cached else "compiled", self.compile_s),
        )

    def encode(self, prompt: str | Sequence[int]) -> list[int]:
        """Token ids of a text (with the tokenizer's special tokens), or the ids given."""
        if not isinstance(prompt, str):
            return [int(token) for token in prompt]
        return list(self._need_tokenizer().encode(prompt).ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens; "" for a model that comes without tokenizer.json."""
        return self._tokenizer.decode(list(token_ids)) if self._tokenizer else ""

    def stream(
        self,
        prompt: str | Sequence[int],
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop_tokens: Sequence[int] | None = None,
    ) -> Iterator[Token]:
        """Yields tokens while the kernel runs. Leaving early ends the request (on PE 0 for all).

        stop_tokens : ids that end the request and are yielded last; the model's end-of-sequence tokens by default.
        """
        generation = Generation(self.encode(prompt))
        yield from self._stream(generation, max_new_tokens, temperature, top_p, seed, stop_tokens)

    def generate(self, prompt, on_token: Callable[[Token], object] | None = None, **options) -> Generation:
        """Decodes a request to its end; options are `stream`'s. `on_token` sees each token as it comes."""
        generation = Generation(self.encode(prompt))
        for token in self._stream(generation, **options):
            if on_token:
                on_token(token)
        return generation

    def _stream(
        self, generation, max_new_tokens=64, temperature=0.0, top_p=1.0, seed=0, stop_tokens=None
    ) -> Iterator[Token]:
        stops = self.config.eos_token_ids if stop_tokens is None else tuple(stop_tokens)
        room = self.plan.max_context - len(generation.prompt_ids)
        if room < 1:
            raise InputError(
                f"the prompt of {len(generation.prompt_ids)} tokens does not fit the context of {self.plan.max_context}"
            )
        if max_new_tokens > room:
            LOG.info("of %d new tokens %d fit the context of %d", max_new_tokens, room, self.plan.max_context)
        self.loop.start(
            generation.prompt_ids, min(max_new_tokens, room), 0, temperature, top_p, seed, [s for s in stops if s >= 0]
        )
        text = TextStream(self._tokenizer, generation.prompt_ids) if self._tokenizer else None
        try:
            for token in self.loop.tokens():
                if not generation.token_ids:
                    generation.prefill_s = time.perf_counter() - self.loop.started
                generation.token_ids.append(token)
                added = text.add(token) if text and token not in stops else ""
                generation.text += added
                yield Token(token, added)
        finally:
            self.loop.stop()
            generation.stop_reason = self.loop.finish()
            times = self.loop.token_times
            if len(times) > 1:
                generation.ms_per_token = float(times[-1] - times[0]) / (len(times) - 1) / 1e6

    def _need_tokenizer(self):
        if self._tokenizer is None:
            raise InputError("this model comes without tokenizer.json: give the prompt as token ids")
        return self._tokenizer


def _load_tokenizer(folder):
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json" if folder else None
    return Tokenizer.from_file(str(path)) if path and path.exists() else None


def _choose_put(pe, name, team) -> bool:
    """Whether partial sums go by put_signal: asked for, or because packets cannot reach every PE."""
    choice = choose(pe, name, team)
    if choice.two_shot_bytes == 0:
        raise InputError(f"decoding adds partial sums in one shot: {choice.algorithm(0)} is not for it")
    return choice.put


def _make_plan(shape, context, pe, put, options) -> Plan:
    """The plan for this backend: one big block a multiprocessor on a GPU, one thread a block in the emulator."""
    device, gpu = pe.device, pe.backend == "gpu"
    usual = dict(
        block=480 if gpu else 1,
        warp=device.warp_size if gpu else 1,
        multiprocessors=device.multiprocessors if gpu else 1,
        max_tile_columns=512 if gpu else 2048,  # one block has all sums of a product in its shared memory there
        # Beside NVSHMEM's puts many take more registers than there are; in the emulator they take longer to compile.
        prefill_tokens=1 if put else MOST_TOKENS if gpu else 32,
    )
    return make_plan(shape, context, shared_limit=device.shared_bytes, put=put, **{**usual, **options})
