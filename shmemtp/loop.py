"""The persistent decode loop: one kernel per request, which the host starts, reads tokens from, and may stop."""

import time
from collections.abc import Iterator, Sequence

import numpy as np

from .agreement import agree
from .algorithm import NEVER
from .channel import Channel, Extent
from .errors import InputError, ShmemtpError
from .plan import Plan
from .product import round_up
from .resident import ResidentModel

__all__ = ["DecodeLoop"]

MOST_STOPS = 16
PENDING = -1  # of a token's id and time, until the kernel has told it
PATIENCE_S = 0.0002  # between two looks for a token: a core that only looks is lost to the emulator's threads


class DecodeLoop:
    """Decodes requests with a model that is resident on a team's PEs. Collective: every PE makes the same calls.

    `start` launches the kernel, `tokens` yields token ids while it runs, `stop` (PE 0's word counts) ends the request
    early, `finish` waits for the kernel and tells why it ended. `launches` counts kernels: one a request.

    Parameters
    ----------
    pe, team : the process and the PEs that share the model, `team.size` being the plan's TP size.
    model : this PE's share.
    record_logits : tokens whose logits are kept on the device (`logits`), for tests.
    """

    def __init__(self, pe, team, model: ResidentModel, record_logits: int = 0):
        from .device.trace import MARKS

        self.pe, self.team, self.plan, self.launches = pe, team, model.plan, 0
        plan, device = model.plan, pe.device
        self._model, self._running = model, None
        self._failed: BaseException | None = None
        agree(team.comm, "plans", plan.summary)
        self._passes = PassArguments(pe, team, plan)
        self._prompt_passes = PromptArguments(pe, team, plan)
        self._watch = self._passes.channel.watch
        self._votes = _vote_memory(pe, plan)
        self._prompt, self._stops = device.array(plan.max_context, np.int64), device.array(MOST_STOPS, np.int64)
        self._seed = device.array(1, np.int64)
        self._control, self._why_ended = device.mapped(1, np.int64), device.mapped(1, np.int64)
        self._tokens = device.mapped(plan.max_context, np.int64)
        self._times = device.mapped(plan.max_context, np.int64)
        self._record = device.array(record_logits * plan.shape.vocab, np.float32)
        self._epochs = device.array(2, np.int64)
        self._epochs.fill(np.ones(2, np.int64))  # cleared slots hold epoch 0
        self._trace = device.array((plan.shape.layers * MARKS if plan.trace else 0) * plan.grid, np.int64)
        self._compiled = None
        self.compile()

    def compile(self):
        """Compiles the kernel or reads it from the disk cache; sets `compile_s` (seconds) and `compile_cached`."""
        from .device.decode import decode

        args = self._arguments(1, 0, 1, 0.0, 1.0)
        self._compiled = self.pe.device.compile(decode, args, block=self.plan.threads)
        self.compile_s, self.compile_cached = self._compiled.seconds, self._compiled.cached

    def start(
        self,
        prompt_ids: Sequence[int],
        max_new_tokens: int,
        position: int = 0,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop_tokens: Sequence[int] = (),
    ):
        """Launches the kernel for a request and returns.

        prompt_ids follow `position` tokens whose keys and values are in the cache. temperature 0 is greedy; otherwise
        the softmax of logits / temperature is sampled within the nucleus of mass top_p, the same for the same seed.
        """
        if self._running:
            raise ShmemtpError("a request is running: finish it before the next one")
        if self._failed:
            raise ShmemtpError("this loop ended with an error and cannot go on: make a new one")
        self._check(prompt_ids, max_new_tokens, position, temperature, top_p, stop_tokens)
        request = (list(prompt_ids), max_new_tokens, position, temperature, top_p, seed, list(stop_tokens))
        agree(self.team.comm, "requests", request)  # and nobody launches before all PEs are here
        stops = np.full(MOST_STOPS, -1, np.int64)
        stops[: len(stop_tokens)] = stop_tokens
        self._prompt.fill(np.array(prompt_ids, np.int64))
        self._stops.fill(stops)
        self._seed.fill(np.array([seed % (1 << 64)], np.uint64).view(np.int64))
        self._control.host[:] = 0
        self._why_ended.host[:] = 0
        self._tokens.host[: max_new_tokens + 1] = self._times.host[: max_new_tokens + 1] = PENDING
        args, plan = self._arguments(len(prompt_ids), position, max_new_tokens, temperature, top_p), self.plan
        self.started = time.perf_counter()
        self._running = self.pe.device.launch(
            self._compiled, plan.grid, plan.threads, args, shared_bytes=plan.shared_bytes, warp=plan.warp
        )
        self.launches += 1

    def tokens(self) -> Iterator[int]:
        """Yields the request's token ids as the kernel publishes them; then `finish`es it."""
        read = 0
        while self._running:
            ended = self._running.done()
            while (token := int(self._tokens.host[read])) != PENDING:
                read += 1
                yield token
            if ended:
                self.finish()
            else:
                self.pe.watchdog.check()
                time.sleep(PATIENCE_S)

    def stop(self):
        """Asks the kernel to end after the token that begins next, in a prompt after its pass, or after 32 tokens.

        Only what PE 0 of the team asks counts, and reaches all PEs.
        """
        self._control.host[0] = 1

    def finish(self) -> str:
        """Waits for the kernel; "length", "stop_token" or "stopped". Raises if a wait ran out, or logits overflowed."""
        from .device.request import RUNNING, UNDEFINED

        if self._running:
            launch = self._running
            try:
                while not launch.done():
                    self.pe.watchdog.check()
                    time.sleep(PATIENCE_S)
                launch.wait()
                self._running = None
                self._watch.check("decode")
            except BaseException as error:
                self._failed, self._running = error, None
        if self._failed:
            raise self._failed
        reason = int(self._why_ended.host[0])
        if reason == RUNNING:
            raise ShmemtpError("no request was decoded yet")
        if reason == UNDEFINED:
            raise ShmemtpError(f"no logit of token {len(self.token_times) + 1} is a number: an overflow?")
        return REASONS[reason]

    @property
    def passes(self) -> int:
        """How often the loop's requests have taken tokens through all layers, each time reading all weights."""
        from .device.decode import STEP_EPOCH

        return (int(self._epochs.numpy()[STEP_EPOCH]) - 1) // self.plan.shape.layers

    @property
    def token_times(self) -> np.ndarray:
        """When each token was chosen, maybe but the newest of a running request: int64 ns of this PE's device clock."""
        return self._times.host[: np.argmax(self._times.host == PENDING)].copy()

    def logits(self) -> np.ndarray:
        """This PE's recorded logits of the last request: float32 [record_logits, vocab of this PE]."""
        return self._record.numpy().reshape(-1, self.plan.shape.vocab)

    def trace(self) -> np.ndarray:
        """When the newest token's phases ended: int64 cycles [layers, phases, blocks] (with plan.trace)."""
        return self._trace.numpy().reshape(self.plan.shape.layers, -1, self.plan.grid)

    def _check(self, prompt_ids, max_new_tokens, position, temperature, top_p, stop_tokens):
        vocab, most = self.plan.shape.total_vocab, self.plan.max_context
        if not prompt_ids:
            raise InputError("the prompt is empty: it needs at least one token")
        wrong = [token for token in (*prompt_ids, *stop_tokens) if not 0 <= token < vocab]
        if wrong:
            raise InputError(f"token id {wrong[0]} is outside the vocabulary of {vocab}")
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {max_new_tokens}: it must be at least 1")
        if position < 0 or position + len(prompt_ids) + max_new_tokens > most:
            raise InputError(
                f"a prompt of {len(prompt_ids)} tokens at position {position} and {max_new_tokens} new ones do not fit "
                f"the context of {most}"
            )
        if len(stop_tokens) > MOST_STOPS:
            raise InputError(f"{len(stop_tokens)} stop tokens: at most {MOST_STOPS} can be watched for")
        if not temperature >= 0 or not 0 < top_p <= 1:
            raise InputError(f"temperature {temperature} must be 0 or more, top_p {top_p} above 0 and at most 1")

    def _arguments(self, prompt_count, position, max_new_tokens, temperature, top_p):
        """In the order of device/decode.py's kernel."""
        model = self._model
        return (
            *(*self._passes.of(self._watch), *self._prompt_passes.of(self._watch)),
            *(model.weights, model.embedding, model.norms, model.biases, model.head_norms, model.rope),
            *(model.keys, model.values),
            *(array.argument for array in self._votes),
            *(self._prompt, prompt_count, position, max_new_tokens, self._stops),
            *(np.float32(temperature), np.float32(top_p), self._seed, self._control, self._why_ended),
            *(self._tokens, self._times, self._record, self._epochs, self._trace),
        )


REASONS = {1: "length", 2: "stop_token", 3: "stopped"}


class PassArguments:
    """What generated tokens' passes need: constants, a channel to the other PEs, and words that the blocks share."""

    def __init__(self, pe, team, plan: Plan):
        from .device.backend import Constants

        packets = round_up(plan.layout.o.pairs_per_block, 8)
        self.channel = Channel(pe, team, Extent(plan.grid, packets, plan.put, threads=plan.block), NEVER)
        self._words = pe.device.array(plan.channels["words"], np.uint32)
        self._constants = Constants(**plan.constants)

    def of(self, watch):
        """In the order of device/decode.py's kernel; its passes share a watch: whose wait ran out first, is told."""
        return self._constants, self.channel.argument._replace(watch=watch.argument), self._words


class PromptArguments:
    """What a prompt's passes need: constants, a channel to the other PEs, and what this PE's blocks show each other."""

    def __init__(self, pe, team, plan: Plan):
        from .device.backend import Constants

        passes, tokens, shape = plan.prompt, plan.prompt.tokens, plan.shape
        extent = Extent(plan.grid, max(8, passes.packets), plan.put, threads=plan.threads)
        self.channel = Channel(pe, team, extent, NEVER)
        sizes = {"x": passes.inputs["words"], "rows": tokens * shape.qkv_rows, "squares": tokens * plan.grid}
        sizes |= {"queries": tokens * shape.heads * shape.head_dim, "sums": passes.sums if tokens else 0}
        kinds = {"x": np.uint32, "queries": np.uint16}
        self._shown = [pe.device.array(max(1, count), kinds.get(name, np.float32)) for name, count in sizes.items()]
        self._constants = Constants(**passes.constants)

    def of(self, watch):
        """In the order of device/decode.py's kernel."""
        return self._constants, self.channel.argument._replace(watch=watch.argument), *self._shown


def _vote_memory(pe, plan: Plan):
    """The votes, their outbox and signals (see device/vote.py).

    As large as the largest of the teams needs that decode side by side: the symmetric heap is one of all PEs.
    """
    signals, outbox = (plan.shape.tp * plan.grid, 2 * plan.grid * 8) if plan.put else (1, 1)
    largest = np.max(pe.comm.allgather((plan.vote_words, outbox, signals)), axis=0)
    kinds = (np.uint32, np.uint32, np.uint64)
    return tuple(pe.array(int(count), kind) for count, kind in zip(largest, kinds, strict=True))
