"""Loads, stores, packets and atomics (device/backend/README.md) between the blocks of one PE."""

import time

import numpy as np
import pytest

from shmemtp.device import (
    DEVICE,
    SYSTEM,
    Constants,
    atomic_add,
    atomic_cas,
    await_copies,
    block_index,
    block_size,
    clock,
    commit_copies,
    copy_async,
    grid_size,
    kernel,
    load_acquire,
    load_packet,
    load_relaxed,
    load_vector,
    pause,
    shared,
    store_half,
    store_packet,
    store_relaxed,
    store_release,
    sync_block,
    thread_index,
    uint32,
)

LIMIT = 20 * 10**9  # nanoseconds: no spin of these tests is endless
WORDS = [np.int64, np.uint64, np.int32, np.uint32]


@kernel
def load_vectors(array, out, step):
    for i in range(array.shape[0] // step):
        a, b, c, d = load_vector(array, i * step)
        out[4 * i], out[4 * i + 1], out[4 * i + 2], out[4 * i + 3] = a, b, c, d


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.float32, np.uint64])
def test_load_vector(run, device, dtype):
    bits = np.random.default_rng(5).integers(0, 2**32, 24, np.uint32)
    array, out = device.array(96 // dtype().itemsize, dtype), device.array(24, np.uint32)
    array.fill(bits.view(dtype))
    run(load_vectors, (1, device.warp_size, device.warp_size), array, out, 16 // dtype().itemsize)
    np.testing.assert_array_equal(out.numpy(), bits)


@kernel
def copy_in_groups(array, out, pieces, groups):
    """Pieces of 16 bytes come to shared memory, group after group; when one has landed, other threads read it."""
    held, count = shared(0, out.size, uint32), block_size()
    for group in range(groups + 1):
        first = 4 * group * pieces
        if group < groups:
            for i in range(thread_index(), pieces, count):
                copy_async(held, first + 4 * i, array, first + 4 * i)
        commit_copies()
        await_copies(1)  # the group before has landed
        sync_block()
        for i in range((thread_index() + 1) % count, pieces if group > 0 else 0, count):
            for word in range(first - 4 * pieces + 4 * i, first - 4 * pieces + 4 * i + 4):
                out[word] = held[word]


@pytest.mark.parametrize("groups", [1, 3])
def test_copies_land_in_the_order_of_their_groups(run, device, groups):
    pieces = 3 * device.warp_size + 1
    words = np.random.default_rng(7).integers(0, 2**32, 4 * pieces * groups, np.uint32)
    array, out = device.array(words.size, np.uint32), device.array(words.size, np.uint32)
    array.fill(words)
    args = (array, out, pieces, groups)
    run(copy_in_groups, (1, 2 * device.warp_size, device.warp_size), *args, shared_bytes=words.nbytes)
    np.testing.assert_array_equal(out.numpy(), words)


@kernel
def send_packets(shape, slots, echo, bad, rounds):
    """Thread t of block 0 and thread t of the last block play ping-pong with packets {x, epoch, y, epoch}."""
    scope = DEVICE if shape.near else SYSTEM
    began, t = clock(), 4 * thread_index()
    for epoch in range(1, rounds + 1):
        tag = uint32(epoch)
        if block_index() == 0:
            store_packet(slots, t, tag * uint32(3), tag, ~tag, tag, scope)
        if block_index() == grid_size() - 1:
            a, first, b, second = load_packet(slots, t, scope)
            while (first != tag or second != tag) and clock() - began < LIMIT:
                pause()
                a, first, b, second = load_packet(slots, t, scope)
            if a != tag * uint32(3) or b != ~tag:
                bad[0] = epoch
            store_half(echo, t + 2, a, tag, scope)
        if block_index() == 0:
            _, _, a, seen = load_packet(echo, t, scope)
            while seen != tag and clock() - began < LIMIT:
                pause()
                _, _, a, seen = load_packet(echo, t, scope)
            if seen != tag or a != tag * uint32(3):
                bad[1] = epoch


@pytest.mark.parametrize("near", [True, False])
def test_packets(run, device, shape, near):
    slots, echo = device.array(4 * shape[1], np.uint32), device.array(4 * shape[1], np.uint32)
    bad = device.array(2, np.int64)
    run(send_packets, shape, Constants(near=near), slots, echo, bad, 40)
    np.testing.assert_array_equal(bad.numpy(), [0, 0])
    last = np.uint32(40)
    np.testing.assert_array_equal(slots.numpy().reshape(-1, 4), np.tile([3 * last, last, ~last, last], (shape[1], 1)))
    np.testing.assert_array_equal(echo.numpy().reshape(-1, 4), np.tile([0, 0, 3 * last, last], (shape[1], 1)))


@kernel
def pass_a_message(flags, data, out, rounds, length):
    """Block after block adds one to the data when the flag says that it is its turn."""
    began, turns = clock(), rounds * grid_size()
    if thread_index() == 0:
        for turn in range(block_index(), turns, grid_size()):
            while load_acquire(flags, 1) != turn and clock() - began < LIMIT:
                pause()
            for i in range(length):
                data[i] += i
            store_release(flags, 1, turn + 1)
            store_relaxed(flags, 2 + block_index(), turn)
            out[block_index()] = load_relaxed(flags, 2 + block_index())


@pytest.mark.parametrize("dtype", WORDS)
def test_release_and_acquire(run, device, shape, dtype):
    grid = shape[0]
    flags, data = device.array(grid + 2, dtype), device.array(50, np.int64)
    out = device.array(grid, np.int64)
    run(pass_a_message, shape, flags, data, out, 10, 50)
    np.testing.assert_array_equal(data.numpy(), np.arange(50) * 10 * grid)
    np.testing.assert_array_equal(flags.numpy(), [0, 10 * grid, *(9 * grid + np.arange(grid))])
    np.testing.assert_array_equal(out.numpy(), 9 * grid + np.arange(grid))


@kernel
def count_up(counts, tickets, rounds):
    me = block_index() * block_size() + thread_index()
    for round_ in range(rounds):
        tickets[me * rounds + round_] = atomic_add(counts, 1, 2)


@pytest.mark.parametrize("dtype", WORDS)
def test_atomic_add_returns_the_old_value(run, device, shape, dtype):
    threads = shape[0] * shape[1]
    counts, tickets = device.array(2, dtype), device.array(threads * 30, np.int64)
    run(count_up, shape, counts, tickets, 30)
    np.testing.assert_array_equal(counts.numpy(), [0, 60 * threads])
    np.testing.assert_array_equal(np.sort(tickets.numpy()), np.arange(30 * threads) * 2)


@kernel
def count_by_cas(counts, wins, rounds):
    """Each thread adds one by compare-and-swap until it has won `rounds` times."""
    began = clock()
    won = 0
    while won < rounds and clock() - began < LIMIT:
        seen = load_relaxed(counts, 0)
        if atomic_cas(counts, 0, seen, seen + 1) == seen:
            won += 1
        else:
            pause()
    wins[block_index() * block_size() + thread_index()] = won


@pytest.mark.parametrize("dtype", WORDS)
def test_atomic_cas_has_one_winner(run, device, dtype):
    warp = device.warp_size
    counts, wins = device.array(1, dtype), device.array(3 * warp, np.int64)
    run(count_by_cas, (3, warp, warp), counts, wins, 50)
    assert (wins.numpy() == 50).all()
    assert counts.numpy()[0] == 150 * warp


@kernel
def answer(questions, answers, count):
    """Answers the host while it runs: question n is n, its answer n * n."""
    began = clock()
    if thread_index() == 0 and block_index() == 0:
        for n in range(1, count + 1):
            while load_acquire(questions, 0) != n and clock() - began < LIMIT:
                pause()
            store_release(answers, 0, n * n)


def test_mapped_memory_is_seen_at_once_by_both(device, shape):
    grid, block, warp = shape
    questions, answers = device.mapped(1, np.int64), device.mapped(1, np.int64)
    args = (questions, answers, 20)
    launch = device.launch(device.compile(answer, args), grid, block, args, warp=warp)
    for n in range(1, 21):
        assert not launch.done()
        questions.host[0] = n
        until = time.monotonic() + 20
        while answers.host[0] != n * n and time.monotonic() < until:
            time.sleep(0)
        assert answers.host[0] == n * n
    launch.wait()
    assert launch.done()


def test_device_arrays(device):
    array = device.array((3, 4), np.uint16)
    assert (array.shape, array.dtype, array.nbytes) == ((3, 4), np.uint16, 24)
    np.testing.assert_array_equal(array.numpy(), np.zeros((3, 4), np.uint16))
    array.fill(np.arange(5, dtype=np.uint16), start=6)
    np.testing.assert_array_equal(array.numpy().reshape(-1), [0] * 6 + [0, 1, 2, 3, 4, 0])
    snapshot = array.numpy()
    array.fill(np.full((3, 4), 9, np.uint16))
    assert snapshot[0, 0] == 0
    array.free()
    free, total = device.memory()
    assert 0 < free <= total
