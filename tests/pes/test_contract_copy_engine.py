"""mbarriers and bulk loads (device/backend/README.md): a ring of shared memory filled by the copy engine."""

import numpy as np

from shmemtp.device import (
    atomic_add,
    barrier_arrive,
    barrier_expect,
    barrier_fence,
    barrier_init,
    barrier_test,
    barrier_wait,
    block_index,
    block_size,
    bulk_fence,
    bulk_load,
    clock,
    function,
    grid_size,
    int64,
    kernel,
    load_acquire,
    pause,
    shared,
    sync_block,
    thread_index,
    uint32,
    uint64,
)

LIMIT = 20 * 10**9  # nanoseconds: no spin of these tests is endless


@kernel
def look_at_phases(out):
    """What `barrier_test` says of both parities, before and after each arrival."""
    if thread_index() == 0:
        barriers = shared(16, 2, uint64)
        barrier_init(barriers, 1)
        for step in range(4):
            for parity in range(2):
                out[2 * step + parity] = 1 if barrier_test(barriers, 1, parity) else 0
            barrier_expect(barriers, 1, 0)


def test_barrier_phases(run, device):
    out = device.array(8, np.int64)
    run(look_at_phases, (1, device.warp_size, device.warp_size), out, shared_bytes=64)
    # Before any arrival phase 1 counts as completed; then phases 0, 1, 0 complete in turn.
    np.testing.assert_array_equal(out.numpy(), [0, 1, 1, 0, 0, 1, 1, 0])


@kernel
def count_arrivals(out):
    """What `barrier_test` says before and after each of three arrivals, in one phase and in the next."""
    if thread_index() == 0:
        barriers = shared(0, 1, uint64)
        barrier_init(barriers, 0, 3)
        barrier_fence()
        out[0] = 1 if barrier_test(barriers, 0, 0) else 0
        barrier_arrive(barriers, 0)
        out[1] = 1 if barrier_test(barriers, 0, 0) else 0
        barrier_expect(barriers, 0, 0)
        out[2] = 1 if barrier_test(barriers, 0, 0) else 0
        barrier_arrive(barriers, 0)
        barrier_wait(barriers, 0, 0)
        out[3] = 1 if barrier_test(barriers, 0, 0) else 0
        for _ in range(3):
            out[4] = 1 if barrier_test(barriers, 0, 1) else 0
            barrier_arrive(barriers, 0)
        out[5] = 1 if barrier_test(barriers, 0, 1) else 0


def test_a_phase_takes_so_many_arrivals(run, device):
    out = device.array(6, np.int64)
    run(count_arrivals, (1, device.warp_size, device.warp_size), out, shared_bytes=128)
    np.testing.assert_array_equal(out.numpy(), [0, 0, 0, 1, 0, 1])


@kernel
def bytes_before_they_are_expected(source, out):
    """A copy may land before anybody has said that it will: the arrival is still missing."""
    if thread_index() == 0:
        words, barriers = shared(64, 4, uint32), shared(0, 1, uint64)
        barrier_init(barriers, 0)
        barrier_fence()
        bulk_load(words, 0, source, 0, 16, barriers, 0)
        out[4] = 1 if barrier_test(barriers, 0, 0) else 0
        barrier_expect(barriers, 0, 16)
        barrier_wait(barriers, 0, 0)
        for i in range(4):
            out[i] = words[i]


def test_bytes_may_land_before_they_are_expected(run, device):
    source, out = device.array(4, np.uint32), device.array(5, np.uint32)
    source.fill(np.arange(4, 8, dtype=np.uint32))
    run(bytes_before_they_are_expected, (1, device.warp_size, device.warp_size), source, out, shared_bytes=128)
    np.testing.assert_array_equal(out.numpy(), [4, 5, 6, 7, 0])


@kernel
def hand_over(source, out, rounds, threads):
    """A warp of its own fetches a word a round; the others wait for it, add it up and give its place back."""
    words, barriers = shared(64, 4, uint32), shared(0, 2, uint64)
    workers = thread_index() < threads
    if thread_index() == 0:
        barrier_init(barriers, 0)
        barrier_init(barriers, 1, threads)
        barrier_fence()
    sync_block()
    total, parity = uint32(0), uint32(0)
    for n in range(rounds):
        if workers:
            barrier_wait(barriers, 0, parity)
            total = uint32(total * uint32(31) + words[0])
            barrier_arrive(barriers, 1)
        elif thread_index() == threads:
            barrier_wait(barriers, 1, parity ^ uint32(1))
            barrier_expect(barriers, 0, 16)
            bulk_load(words, 0, source, 4 * n, 16, barriers, 0)
        parity ^= uint32(1)
    if workers:
        out[thread_index()] = total


def test_a_warp_feeds_the_others(run, device):
    """What is read stays until all have read it, and each round's word comes once."""
    warp = device.warp_size if device.warp_size == 32 else 2
    threads, rounds = 3 * warp, 50
    source, out = device.array(4 * rounds, np.uint32), device.array(threads, np.uint32)
    words = np.random.default_rng(8).integers(0, 2**32, (rounds, 4), np.uint32)
    source.fill(words.reshape(-1))
    run(hand_over, (1, threads + warp, warp), source, out, rounds, threads, shared_bytes=128)
    want = np.uint32(0)
    for word in words[:, 0]:
        want = np.uint32((int(want) * 31 + int(word)) % 2**32)
    np.testing.assert_array_equal(out.numpy(), np.full(threads, want))


@function
def wait_for_phase(barriers, i, parity, began):
    while not barrier_test(barriers, i, parity) and clock() - began < LIMIT:
        pause()


@kernel
def stream(source, out, tiles, tile_words, stages):
    """Thread 0 keeps `stages` tiles in flight; all threads add them up; thread 0 refills what everybody has read."""
    began = clock()
    ring, barriers = shared(128, stages * tile_words, uint32), shared(0, stages, uint64)
    mine = tiles // grid_size()
    first = block_index() * mine * tile_words
    if thread_index() == 0:
        for stage in range(stages):
            barrier_init(barriers, stage)
        barrier_fence()
    sync_block()
    total = uint32(0)
    for tile in range(-stages, mine):
        if tile >= 0:
            wait_for_phase(barriers, tile % stages, tile // stages & 1, began)
            for word in range(tile_words):
                total = uint32(total * uint32(31) + ring[tile % stages * tile_words + word])
        sync_block()
        following = tile + stages
        if thread_index() == 0 and following < mine:
            stage = following % stages
            barrier_fence()
            barrier_expect(barriers, stage, 4 * tile_words)
            start = first + following * tile_words
            bulk_load(ring, stage * tile_words, source, start, 4 * tile_words, barriers, stage)
    out[block_index()] = total


def test_bulk_load_ring(run, device, shape):
    grid = shape[0]
    tiles, tile_words, stages = 11 * grid, 36, 3
    words = np.random.default_rng(6).integers(0, 2**32, tiles * tile_words, np.uint32)
    source, out = device.array(words.size, np.uint32), device.array(grid, np.uint32)
    source.fill(words)
    run(stream, shape, source, out, tiles, tile_words, stages, shared_bytes=128 + 4 * stages * tile_words)
    want = np.zeros(grid, np.uint32)
    for column in words.reshape(grid, -1).T:
        want = want * np.uint32(31) + column
    np.testing.assert_array_equal(out.numpy(), want)


@kernel
def several_loads_a_phase(source, out):
    """One phase waits for the bytes of three loads, two of them of another dtype's array."""
    began = clock()
    halves, barriers = shared(64, 64, uint32), shared(0, 1, uint64)
    if thread_index() == 0:
        barrier_init(barriers, 0)
        barrier_fence()
        barrier_expect(barriers, 0, 16 + 32 + 48)
        bulk_load(halves, 4, source, 8, 16, barriers, 0)
        bulk_load(halves, 12, source, 0, 32, barriers, 0)
        bulk_load(halves, 20, source, 16, 48, barriers, 0)
        wait_for_phase(barriers, 0, 0, began)
        for i in range(28):
            out[i] = halves[4 + i]


def test_one_phase_waits_for_several_loads(run, device):
    source, out = device.array(40, np.uint16), device.array(28, np.uint32)
    source.fill(np.arange(40, dtype=np.uint16))
    run(several_loads_a_phase, (1, device.warp_size, device.warp_size), source, out, shared_bytes=512)
    found = out.numpy().view(np.uint16)
    np.testing.assert_array_equal(found[0:8], np.arange(8, 16))
    np.testing.assert_array_equal(found[16:32], np.arange(16))
    np.testing.assert_array_equal(found[32:56], np.arange(16, 40))


@kernel
def copy_what_another_block_wrote(words, arrived, rounds, out):
    """Each round a block's threads write its part of words, and its copy engine reads that of the next block."""
    copied, landed = shared(0, 64, uint32), shared(4 * 64, 1, uint64)
    if thread_index() == 0:
        barrier_init(landed, 0)
        barrier_fence()
    sync_block()
    for n in range(rounds):
        for i in range(thread_index(), 64, block_size()):
            words[64 * block_index() + i] = uint32(1000 * n + 64 * block_index() + i)
        meet_all(arrived, grid_size() * (2 * n + 1))
        other = (block_index() + 1) % grid_size()
        if thread_index() == 0:
            barrier_expect(landed, 0, 4 * 64)
            bulk_load(copied, 0, words, 64 * other, 4 * 64, landed, 0)
        barrier_wait(landed, 0, n & 1)
        for i in range(thread_index(), 64, block_size()):
            if copied[i] != uint32(1000 * n + 64 * other + i):
                atomic_add(out, 0, int64(1))
        meet_all(arrived, grid_size() * (2 * n + 2))


@function
def meet_all(arrived, count):
    sync_block()
    if thread_index() == 0:
        atomic_add(arrived, 0, int64(1))
        began = clock()
        while load_acquire(arrived, 0) < count and clock() - began < LIMIT:
            pause()
        bulk_fence()
    sync_block()


def test_the_copy_engine_reads_what_another_block_wrote(run, device, shape):
    grid, block, warp = shape
    words, arrived, out = device.array(64 * grid, np.uint32), device.array(1, np.int64), device.array(1, np.int64)
    run(copy_what_another_block_wrote, (grid, block, warp), words, arrived, 50, out, shared_bytes=4 * 64 + 8)
    assert out.numpy()[0] == 0
