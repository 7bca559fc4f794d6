"""NVSHMEM's verbs (device/backend/README.md) between the PEs, for a thread, a warp and a block."""

import numpy as np
import pytest

from shmemtp.device import (
    block_index,
    clock,
    fence,
    function,
    get,
    get_block,
    get_warp,
    grid_size,
    int64,
    kernel,
    lane_index,
    pause,
    put,
    put_block,
    put_signal,
    put_signal_block,
    put_signal_warp,
    put_warp,
    quiet,
    signal,
    signal_fetch,
    sync_block,
    thread_index,
    uint64,
    warp_index,
)

LIMIT = 20 * 10**9  # nanoseconds: no spin of these tests is endless
THREAD, WARP, BLOCK = range(3)
SCOPES = pytest.mark.parametrize("scope", [THREAD, WARP, BLOCK], ids=["thread", "warp", "block"])


def values_of(pe, count, dtype=np.float32):
    """What PE `pe` sends in these tests."""
    return (np.arange(count) + 1000 * pe + 1).astype(dtype)


@function
def called_by(scope):
    """Whether this thread takes part: one thread of each block, its first warp, or all of it."""
    return thread_index() == 0 or scope == BLOCK or (scope == WARP and warp_index() == 0)


@kernel
def put_share(target, source, count, pe, scope):
    """Each block puts its share of the elements, three elements further on."""
    first, end = count * block_index() // grid_size(), count * (block_index() + 1) // grid_size()
    if called_by(scope):
        if scope == THREAD:
            put(target, first + 3, source, first, end - first, pe)
        elif scope == WARP:
            put_warp(target, first + 3, source, first, end - first, pe)
        else:
            put_block(target, first + 3, source, first, end - first, pe)
        quiet()


@SCOPES
@pytest.mark.parametrize("dtype", [np.float32, np.uint16, np.uint64])
def test_put(run, symmetric, device, comm, shape, scope, dtype):
    target, source = symmetric(300, dtype), device.array(201, dtype)
    source.fill(values_of(comm.rank, 201, dtype))
    run(put_share, shape, target, source, 201, (comm.rank + 1) % comm.size, scope)
    comm.Barrier()
    left = (comm.rank - 1) % comm.size
    np.testing.assert_array_equal(target.numpy(), [0] * 3 + [*values_of(left, 201, dtype)] + [0] * 96)


@kernel
def get_share(target, source, count, pe, scope):
    """Each block gets its share of the elements, from three elements further on."""
    first, end = count * block_index() // grid_size(), count * (block_index() + 1) // grid_size()
    if called_by(scope):
        if scope == THREAD:
            get(target, first, source, first + 3, end - first, pe)
        elif scope == WARP:
            get_warp(target, first, source, first + 3, end - first, pe)
        else:
            get_block(target, first, source, first + 3, end - first, pe)


@SCOPES
def test_get_from_every_pe(run, symmetric, device, comm, shape, scope):
    source, target = symmetric(204, np.float32), device.array(201, np.float32)
    source.fill(values_of(comm.rank, 201), start=3)
    comm.Barrier()
    for pe in range(comm.size):
        run(get_share, shape, target, source, 201, pe, scope)
        np.testing.assert_array_equal(target.numpy(), values_of(pe, 201))


@function
def wait_for(signals, i, value, began):
    while signal_fetch(signals, i) != uint64(value) and clock() - began < LIMIT:
        pause()
    return signal_fetch(signals, i) == uint64(value)


@function
def send(target, to, source, count, signals, i, value, pe, scope):
    if scope == THREAD:
        put_signal(target, to, source, to, count, signals, i, value, pe)
    elif scope == WARP:
        put_signal_warp(target, to, source, to, count, signals, i, value, pe)
    else:
        put_signal_block(target, to, source, to, count, signals, i, value, pe)


@kernel
def pass_on(target, source, signals, wrong, count, right, left, rounds, scope):
    """Each round a block sends `count` values to the right, checks those from the left, and tells the left so."""
    began, block = clock(), block_index()
    to, acknowledged = block * count, grid_size() + block
    for epoch in range(1, rounds + 1):
        if thread_index() == 0:
            if not wait_for(signals, acknowledged, epoch - 1, began):
                wrong[block] = epoch
            for i in range(count):
                source[to + i] = epoch * 1000 + to + i
        sync_block()
        if called_by(scope):
            send(target, to, source, count, signals, block, epoch, right, scope)
        if thread_index() == 0:
            if not wait_for(signals, block, epoch, began):
                wrong[block] = -epoch
            for i in range(count):
                if target[to + i] != epoch * 1000 + to + i:
                    wrong[block] = -1000 * epoch - i
            signal(signals, acknowledged, epoch, left)
        sync_block()


@SCOPES
def test_put_signal(run, symmetric, device, comm, shape, scope):
    grid, count = shape[0], 37
    target, source = symmetric(grid * count, np.int64), device.array(grid * count, np.int64)
    signals, wrong = symmetric(2 * grid, np.uint64), device.array(grid, np.int64)
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    run(pass_on, shape, target, source, signals, wrong, count, right, left, 10, scope)
    np.testing.assert_array_equal(wrong.numpy(), np.zeros(grid))
    comm.Barrier()
    np.testing.assert_array_equal(signals.numpy(), np.full(2 * grid, 10))


@kernel
def put_fence_signal(target, source, signals, wrong, me, pes, rounds):
    """Lane 0 of block 0: puts to every PE, a fence, signals to every PE; then waits for all of them."""
    began, done = clock(), pes  # signals[pes + p]: what PE p has read of mine
    if block_index() == 0 and warp_index() == 0 and lane_index() == 0:
        for epoch in range(1, rounds + 1):
            for pe in range(pes):
                if not wait_for(signals, done + pe, epoch - 1, began):
                    wrong[0] = epoch
            source[0], source[1] = int64(epoch), int64(me)
            for pe in range(pes):
                put(target, 2 * me, source, 0, 2, pe)
            fence()
            for pe in range(pes):
                signal(signals, me, epoch, pe)
            for pe in range(pes):
                if not wait_for(signals, pe, epoch, began):
                    wrong[0] = -epoch
                if target[2 * pe] != epoch or target[2 * pe + 1] != pe:
                    wrong[0] = -1000 * epoch - pe
                signal(signals, done + me, epoch, pe)
        quiet()


def test_a_fence_keeps_a_signal_behind_puts(run, symmetric, device, comm, shape):
    target, source = symmetric(2 * comm.size, np.int64), device.array(2, np.int64)
    signals, wrong = symmetric(2 * comm.size, np.uint64), device.array(1, np.int64)
    run(put_fence_signal, shape, target, source, signals, wrong, comm.rank, comm.size, 20)
    assert wrong.numpy()[0] == 0
    comm.Barrier()
    np.testing.assert_array_equal(target.numpy().reshape(-1, 2), [[20, pe] for pe in range(comm.size)])
