"""What kernels wait with (device/shmem.py): signals and barriers of PEs, for a thread, a warp and a block."""

import numpy as np
import pytest

from shmemtp.device import (
    Limits,
    barrier,
    barrier_block,
    barrier_warp,
    block_index,
    block_size,
    function,
    grid_size,
    has_expired,
    int64,
    kernel,
    put,
    put_signal,
    put_signal_block,
    put_signal_warp,
    signal,
    signal_wait,
    signal_wait_block,
    signal_wait_warp,
    sync_block,
    thread_index,
    warp_index,
    warp_size,
)
from shmemtp.errors import TimeoutError_

THREAD, WARP, BLOCK = range(3)
SCOPES = pytest.mark.parametrize("scope", [THREAD, WARP, BLOCK], ids=["thread", "warp", "block"])
SHORT_S = 0.2


@function
def called_by(scope):
    """Whether this thread takes part: one thread of each block, its first warp, or all of it."""
    return thread_index() == 0 or scope == BLOCK or (scope == WARP and warp_index() == 0)


@function
def callers(scope):
    """How many threads of a block take part."""
    return int64(1) if scope == THREAD else warp_size() if scope == WARP else block_size()


@function
def send(target, to, source, count, signals, i, value, pe, scope):
    if scope == THREAD:
        put_signal(target, to, source, to, count, signals, i, value, pe)
    elif scope == WARP:
        put_signal_warp(target, to, source, to, count, signals, i, value, pe)
    else:
        put_signal_block(target, to, source, to, count, signals, i, value, pe)


@function
def wait(signals, i, value, limits, scope):
    if scope == THREAD:
        signal_wait(signals, i, value, limits)
    elif scope == WARP:
        signal_wait_warp(signals, i, value, limits)
    else:
        signal_wait_block(signals, i, value, limits)


@function
def meet(signals, i, epoch, pes, limits, scope):
    if scope == THREAD:
        barrier(signals, i, epoch, pes, limits)
    elif scope == WARP:
        barrier_warp(signals, i, epoch, pes, limits)
    else:
        barrier_block(signals, i, epoch, pes, limits)


@kernel
def pass_on(target, source, signals, meetings, wrong, count, right, pes, rounds, scope, rank, watch):
    """Each round a block passes `count` values to the right, every thread checks some from the left, all PEs meet."""
    limits, block = Limits(watch, rank), block_index()
    to = block * count
    if called_by(scope):
        for epoch in range(1, rounds + 1):
            for i in range(thread_index(), count, callers(scope)):
                source[to + i] = epoch * 1000 + to + i
            meet(meetings, block * pes.size, 2 * epoch - 1, pes, limits, scope)
            send(target, to, source, count, signals, block, epoch, right, scope)
            wait(signals, block, epoch, limits, scope)
            for i in range(thread_index(), count, callers(scope)):
                if target[to + i] != epoch * 1000 + to + i:
                    wrong[block] = epoch
            meet(meetings, block * pes.size, 2 * epoch, pes, limits, scope)


def numbers(device, values):
    array = device.array(len(values), np.int64)
    array.fill(np.array(values, np.int64))
    return array


@SCOPES
def test_a_ring_of_signals_and_barriers(pe, shape, scope):
    (grid, block, warp), count, rounds = shape, 37, 5
    wrong, pes = pe.device.array(grid, np.int64), numbers(pe.device, pe.team.pes)
    source, right = pe.device.array(grid * count, np.int64), (pe.rank + 1) % pe.size
    with (
        pe.array(grid * count, np.int64) as target,
        pe.array(grid, np.uint64) as signals,
        pe.array(grid * pe.size, np.uint64) as meetings,
    ):
        args = (target, source, signals, meetings, wrong, count, right, pes, rounds, scope, pe.rank, pe.watch())
        pe.run(pass_on, grid, block, *args, warp=warp)
        pe.barrier()
        np.testing.assert_array_equal(wrong.numpy(), np.zeros(grid))
        np.testing.assert_array_equal(signals.numpy(), np.full(grid, rounds))
        np.testing.assert_array_equal(meetings.numpy(), np.full(grid * pe.size, 2 * rounds))


@kernel
def put_everywhere(target, source, meetings, wrong, pes, rounds, scope, rank, watch):
    """Every calling thread puts a value of its own to every PE; behind the barrier it reads what its namesakes put."""
    limits, width = Limits(watch, rank), grid_size() * block_size()
    mine = block_index() * block_size() + thread_index()
    if called_by(scope):
        for epoch in range(1, rounds + 1):
            source[mine] = epoch * 1000 + rank
            for member in range(pes.size):
                put(target, rank * width + mine, source, mine, 1, pes[member])
            meet(meetings, block_index() * pes.size, 2 * epoch - 1, pes, limits, scope)
            for member in range(pes.size):
                if target[member * width + mine] != epoch * 1000 + member:
                    wrong[mine] = epoch
            meet(meetings, block_index() * pes.size, 2 * epoch, pes, limits, scope)


@SCOPES
@pytest.mark.parametrize("teams", [1, 2])
def test_a_barrier_completes_what_its_threads_put(pe, shape, scope, teams):
    grid, block, warp = shape
    team = pe.split(pe.rank % teams)
    wrong, source = pe.device.array(grid * block, np.int64), pe.device.array(grid * block, np.int64)
    with (
        pe.array(pe.size * grid * block, np.int64) as target,
        pe.array(grid * pe.size, np.uint64) as meetings,
    ):
        args = (target, source, meetings, wrong, numbers(pe.device, team.pes), 3, scope, team.rank, pe.watch(team))
        pe.run(put_everywhere, grid, block, *args, warp=warp)
        np.testing.assert_array_equal(wrong.numpy(), np.zeros(grid * block))


@kernel
def signal_and_wait(signals, seen, told, wanted, me, watch):
    if thread_index() == 0:
        signal(signals, block_index(), told, me)
        seen[block_index()] = int64(signal_wait(signals, block_index(), wanted, Limits(watch, me)))


def test_a_later_epoch_will_do_and_is_returned(pe, shape):
    grid, block, warp = shape
    seen = pe.device.array(grid, np.int64)
    with pe.array(grid, np.uint64) as signals:
        pe.run(signal_and_wait, grid, block, signals, seen, 7, 3, pe.rank, pe.watch(), warp=warp)
        np.testing.assert_array_equal(seen.numpy(), np.full(grid, 7))


@kernel
def wait_in_vain(signals, expired, scope, rank, watch):
    """Three waits for what nobody sends: the first runs out, the others end with it."""
    limits = Limits(watch, rank)
    if called_by(scope):
        for epoch in range(5, 8):
            wait(signals, 1, epoch, limits, scope)
    sync_block()
    if thread_index() == 0 and has_expired(limits):
        expired[block_index()] = 1


@SCOPES
def test_a_signal_that_never_comes_is_an_error_on_the_host(pe, shape, scope, monkeypatch):
    monkeypatch.setattr(pe, "timeout_s", SHORT_S)
    grid, block, warp = shape
    expired = pe.device.array(grid, np.int64)
    with pe.array(2, np.uint64) as signals:
        with pytest.raises(TimeoutError_) as error:
            pe.run(wait_in_vain, grid, block, signals, expired, scope, pe.rank, pe.watch(), warp=warp)
        told = f"PE {pe.rank}: wait_in_vain waited 0.2 s for a signal (slot 1, epoch wanted 5, seen 0)"
        assert str(error.value) == told
        np.testing.assert_array_equal(expired.numpy(), np.ones(grid))


@kernel
def meet_once(meetings, epoch, pes, comes, rank, watch):
    if thread_index() == 0 and block_index() == 0 and comes != 0:
        barrier(meetings, 0, epoch, pes, Limits(watch, rank))


def test_a_pe_that_misses_a_barrier_is_named(pe, shape, monkeypatch):
    (grid, block, warp), pes = shape, pe.device.table(pe.team.pes)
    comes = pe.rank != pe.size - 1
    with pe.array(pe.size, np.uint64) as meetings:
        pe.run(meet_once, grid, block, meetings, 1, pes, 1, pe.rank, pe.watch(), warp=warp)  # compiled, by all
        monkeypatch.setattr(pe, "timeout_s", SHORT_S)
        args = (meetings, 2, pes, int(comes), pe.rank, pe.watch())
        if comes:
            with pytest.raises(TimeoutError_, match=f"for a barrier of PEs from PE {pe.size - 1} "):
                pe.run(meet_once, grid, block, *args, warp=warp)
        else:
            pe.run(meet_once, grid, block, *args, warp=warp)
        pe.barrier()
