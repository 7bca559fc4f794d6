"""The words of a kernel (device/backend/README.md) do what the contract says, at every launch shape."""

import time

import numpy as np
import pytest

from shmemtp.device import (
    atomic_add,
    block_index,
    block_size,
    clock,
    float32,
    function,
    grid_size,
    kernel,
    lane_index,
    load_acquire,
    pause,
    shared,
    sync_block,
    sync_threads,
    sync_warp,
    thread_index,
    uint32,
    uint64,
    warp_index,
    warp_max,
    warp_max_key,
    warp_size,
    warp_sum,
)

LIMIT = 20 * 10**9  # nanoseconds: no spin of these tests is endless


@function
def global_thread():
    return block_index() * block_size() + thread_index()


@kernel
def write_indices(out):
    row = 7 * global_thread()
    out[row] = thread_index()
    out[row + 1] = block_index()
    out[row + 2] = block_size()
    out[row + 3] = grid_size()
    out[row + 4] = warp_size()
    out[row + 5] = lane_index()
    out[row + 6] = warp_index()


def test_indices(run, device, shape):
    grid, block, warp = shape
    out = device.array(grid * block * 7, np.int64)
    run(write_indices, shape, out)
    thread, block_of = np.tile(np.arange(block), grid), np.repeat(np.arange(grid), block)
    same = np.ones(grid * block, np.int64)
    want = [thread, block_of, block * same, grid * same, warp * same, thread % warp, thread // warp]
    np.testing.assert_array_equal(out.numpy().reshape(-1, 7), np.stack(want, 1))


@kernel
def pass_around(out, rounds, whole_block):
    """Each round every thread takes its neighbour's number, in the block or in the warp."""
    members = block_size() if whole_block else warp_size()
    me = thread_index() if whole_block else lane_index()
    first = thread_index() - me
    slots = shared(64, block_size(), uint32)
    number = uint32(global_thread())
    for _ in range(rounds):
        slots[first + me] = number
        if whole_block:
            sync_block()
        else:
            sync_warp()
        number = slots[first + (me + 1) % members]
        if whole_block:
            sync_block()
        else:
            sync_warp()
    out[global_thread()] = number


@pytest.mark.parametrize("whole_block", [True, False])
def test_barriers(run, device, shape, whole_block):
    grid, block, warp = shape
    out = device.array(grid * block, np.uint32)
    run(pass_around, shape, out, 101, whole_block, shared_bytes=64 + 4 * block)
    groups = np.arange(grid * block).reshape(-1, block if whole_block else warp)
    np.testing.assert_array_equal(out.numpy(), np.roll(groups, -101, 1).reshape(-1))


@kernel
def pass_around_some(out, rounds, members):
    """As above among the block's first `members` threads, while its last warp goes its own way."""
    slots = shared(64, block_size(), uint32)
    me, number = thread_index(), uint32(thread_index())
    if me < members:
        for _ in range(rounds):
            slots[me] = number
            sync_threads(members)
            number = slots[(me + 1) % members]
            sync_threads(members)
    sync_block()
    out[global_thread()] = number


def test_a_barrier_of_some_threads(run, device, shape):
    grid, block, warp = shape
    out = device.array(grid * (block + warp), np.uint32)
    run(pass_around_some, (grid, block + warp, warp), out, 101, block, shared_bytes=64 + 4 * (block + warp))
    want = np.concatenate([np.roll(np.arange(block), -101), np.arange(block, block + warp)])
    np.testing.assert_array_equal(out.numpy().reshape(grid, -1), np.tile(want, (grid, 1)))


@kernel
def reduce_in_warps(values, keys, sums, largest, largest_keys, rounds):
    i = global_thread()
    for _ in range(rounds):
        sums[i] = warp_sum(values[i])
        largest[i] = warp_max(values[i])
        largest_keys[i] = warp_max_key(keys[i])


def test_warp_reductions(run, device, shape):
    grid, block, warp = shape
    random = np.random.default_rng(3)
    values, keys = device.array(grid * block, np.float32), device.array(grid * block, np.uint64)
    values.fill(random.standard_normal(grid * block).astype(np.float32))
    keys.fill(random.integers(0, 2**64, grid * block, np.uint64))
    found = []
    for rounds in (1, 7):
        out = [device.array(grid * block, dtype) for dtype in (np.float32, np.float32, np.uint64)]
        run(reduce_in_warps, shape, values, keys, *out, rounds)
        found.append([array.numpy().reshape(-1, warp) for array in out])
    for once, again in zip(*found, strict=True):
        np.testing.assert_array_equal(once, again)
        np.testing.assert_array_equal(once, once[:, :1].repeat(warp, 1))  # the same bits on every lane
    sums, largest, largest_keys = (array[:, 0] for array in found[0])
    np.testing.assert_allclose(sums, values.numpy().reshape(-1, warp).sum(1, np.float64), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(largest, values.numpy().reshape(-1, warp).max(1))
    np.testing.assert_array_equal(largest_keys, keys.numpy().reshape(-1, warp).max(1))


@kernel
def meet_over_the_grid(counts, seen, rounds):
    """Every block waits for all others, every round: they run at the same time."""
    began = clock()
    for round_ in range(rounds):
        sync_block()
        if thread_index() == 0:
            atomic_add(counts, 0, 1)
            while load_acquire(counts, 0) < (round_ + 1) * grid_size() and clock() - began < LIMIT:
                pause()
            seen[block_index()] = load_acquire(counts, 0)
        sync_block()


def test_blocks_run_at_the_same_time(run, device, shape):
    counts, seen = device.array(1, np.int64), device.array(shape[0], np.int64)
    run(meet_over_the_grid, shape, counts, seen, 20)
    assert counts.numpy()[0] == 20 * shape[0]
    assert (seen.numpy() == 20 * shape[0]).all()


@kernel
def take_time(out, nanoseconds):
    began = clock()
    while clock() - began < nanoseconds:
        pause()
    out[global_thread()] = clock() - began


def test_clock_counts_nanoseconds(run, device, shape):
    out = device.array(shape[0] * shape[1], np.int64)
    run(take_time, shape, out, 0)  # compiles
    began = time.perf_counter()
    run(take_time, shape, out, 20_000_000)
    elapsed = (time.perf_counter() - began) * 1e9
    assert out.numpy().min() >= 20_000_000
    assert out.numpy().max() <= elapsed


@kernel
def share_dtypes(out):
    """Two views of the same bytes, and one past them."""
    if thread_index() == 0:
        whole, halves, floats = shared(16, 2, uint64), shared(16, 4, uint32), shared(32, 2, float32)
        whole[0], whole[1] = uint64(7) << uint64(32) | uint64(5), uint64(9)
        floats[0], floats[1] = float32(1.5), float32(2.5)
        for i in range(4):
            out[i] = halves[i]
        out[4] = uint32(floats[0] + floats[1])


def test_shared_views(run, device):
    out = device.array(5, np.uint32)
    run(share_dtypes, (1, device.warp_size, device.warp_size), out, shared_bytes=64)
    np.testing.assert_array_equal(out.numpy(), [5, 7, 9, 0, 4])
