"""No PE waits for ever: where one does not come, or leaves half-way, the others leave within the limit and name it."""

import itertools
import time

import numpy as np
import pytest
from decoding import CONTEXT, PROMPT, checkpoint, launch_options

import shmemtp
from shmemtp.device import FLOAT32, all_reduce_block, int64, kernel, local, open_lane
from shmemtp.device.backend import NAME
from shmemtp.errors import ShmemtpError, TimeoutError_

LIMIT_S = 1.5
GRACE_S = 15.0  # for the way out, where the emulator's threads share their cores with other work
WIDE = (5, 2, 1) if NAME == "emulator" else (5, 256, 32)


class NotLaunched:
    """What a launch is on a PE that does not launch."""

    def done(self):
        return True

    def wait(self):
        pass


@pytest.fixture(
    params=[("packets", None), ("packets", WIDE), ("put", WIDE)], ids=["packets", "packets-wide", "put-wide"]
)
def llm(request, pe, monkeypatch):
    """A model whose waits end soon; each test's own, for a loop does not go on after an error."""
    if pe.size == 1:
        pytest.skip("one PE waits for no other")
    algorithm, launch = request.param
    monkeypatch.setattr(pe, "timeout_s", LIMIT_S)
    return shmemtp.LLM(checkpoint(pe, "llama"), pe, max_context=CONTEXT, algorithm=algorithm, **launch_options(launch))


def assert_waits_end(pe, llm, decode):
    """All PEs but the last: `decode` ends with an error that names the last PE."""
    began = time.monotonic()
    with pytest.raises(TimeoutError_) as raised:
        decode()
    assert time.monotonic() - began < LIMIT_S + GRACE_S
    told = str(raised.value)
    assert told.startswith(f"PE {pe.rank}: decode waited {LIMIT_S} s for "), told
    assert f" from PE {pe.size - 1} (slot " in told, told
    with pytest.raises(ShmemtpError, match="cannot go on"):
        llm.loop.start(PROMPT, 1)


def test_a_pe_that_does_not_launch(pe, llm, monkeypatch):
    def decode():
        llm.generate(PROMPT, max_new_tokens=4)

    if pe.rank == pe.size - 1:
        monkeypatch.setattr(pe.device, "launch", lambda *args, **options: NotLaunched())
        with pytest.raises(ShmemtpError, match="no request was decoded"):
            decode()
    else:
        assert_waits_end(pe, llm, decode)
    pe.barrier()


@pytest.mark.skipif(NAME != "emulator", reason="a GPU's kernel cannot be taken away from it")
def test_a_pe_that_leaves_half_way(pe, llm):
    llm.loop.start(PROMPT, CONTEXT - len(PROMPT))
    tokens = llm.loop.tokens()
    list(itertools.islice(tokens, 3))
    if pe.rank == pe.size - 1:
        llm.loop._running.abort()
    else:
        assert_waits_end(pe, llm, lambda: list(tokens))
    pe.barrier()


@kernel
def reduce_some(comm, values, count):
    all_reduce_block(open_lane(comm, local(comm.shape.lane_words, int64)), FLOAT32, values, 0, values, 0, count)


def test_a_pe_that_was_told_another_count(pe, monkeypatch):
    """Who waits for more than the others send is asked whether they make the same calls."""
    if pe.size == 1:
        pytest.skip("one PE waits for no other")
    monkeypatch.setattr(pe, "timeout_s", LIMIT_S)
    with pe.communicator(algorithm="one-shot") as comm:
        values = pe.device.array(200, np.float32)
        if pe.rank < pe.size - 1:
            pe.run(reduce_some, 1, pe.device.warp_size, comm, values, 100)
        else:
            with pytest.raises(TimeoutError_, match=r"reduce_some waited .* from PE \d.*; did all PEs make the same"):
                pe.run(reduce_some, 1, pe.device.warp_size, comm, values, 200)
