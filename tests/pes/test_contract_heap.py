"""The symmetric heap (device/backend/README.md), and direct stores to the peers that it reaches."""

import numpy as np
import pytest

from shmemtp.device import (
    as_bits,
    as_float32,
    block_index,
    block_size,
    clock,
    float32,
    function,
    grid_size,
    kernel,
    load_packet,
    pause,
    peer,
    store_packet,
    thread_index,
    uint32,
)
from shmemtp.device.backend import view
from shmemtp.errors import ShmemtpError

LIMIT = 20 * 10**9  # nanoseconds: no spin of these tests is endless


@pytest.fixture
def distances(heap, device):
    """int64 per PE, in device memory."""
    if heap.distances is None:
        pytest.skip("these PEs do not reach each other's memory")
    table = device.array(len(heap.distances), np.int64)
    table.fill(heap.distances)
    return table


def test_allocations_are_zeroed_aligned_and_apart(heap, comm):
    sizes = [1, 128, 1000, 4096]
    addresses = [heap.allocate(size) for size in sizes]
    for address, size in zip(addresses, sizes, strict=True):
        assert address % 128 == 0
        array = view(address, size, np.uint8)
        assert not array.numpy().any()
        array.fill(np.full(size, comm.rank + 1, np.uint8))
    for address, size in zip(addresses, sizes, strict=True):
        assert (view(address, size, np.uint8).numpy() == comm.rank + 1).all()
    for address in addresses:
        heap.free(address)
    again = heap.allocate(sum(sizes))
    assert not view(again, sum(sizes), np.uint8).numpy().any()
    heap.free(again)


def test_freed_memory_is_used_again(heap):
    for _ in range(20):
        addresses = [heap.allocate(30 << 20) for _ in range(3)]
        for address in addresses[::2] + addresses[1::2]:
            heap.free(address)


def test_more_than_the_heap_holds_is_an_error(heap):
    with pytest.raises(ShmemtpError, match="heap"):
        heap.allocate(1 << 50)
    heap.free(heap.allocate(64))


def test_a_view_has_shape_and_dtype(heap):
    address = heap.allocate(48)
    array = view(address, (3, 4), np.float32)
    assert (array.shape, array.dtype, array.nbytes) == ((3, 4), np.float32, 48)
    array.fill(np.arange(12, dtype=np.float32).reshape(3, 4))
    np.testing.assert_array_equal(view(address, 12, np.float32).numpy(), np.arange(12))
    heap.free(address)


def test_distance_to_oneself_is_zero(heap, comm):
    if heap.distances is not None:
        assert len(heap.distances) == comm.size
        assert heap.distances[comm.rank] == 0


@kernel
def write_to_peers(array, distances, me):
    """Thread by thread: element [me, i] of every PE's array."""
    i = block_index() * block_size() + thread_index()
    threads = grid_size() * block_size()
    for pe in range(distances.shape[0]):
        peer(array, distances[pe])[me * threads + i] = 1000 * me + i


def test_peer(run, symmetric, distances, comm, shape):
    threads = shape[0] * shape[1]
    array = symmetric(comm.size * threads, np.int32)
    run(write_to_peers, shape, array, distances, comm.rank)
    comm.Barrier()
    want = 1000 * np.arange(comm.size)[:, None] + np.arange(threads)
    np.testing.assert_array_equal(array.numpy().reshape(comm.size, -1), want)


@function
def receive(slots, i, tag, began):
    """The packet's two values, once both halves carry the tag; zeros past the limit."""
    a, first, b, second = load_packet(slots, i)
    while first != tag or second != tag:
        if clock() - began > LIMIT:
            return float32(0), float32(0)
        pause()
        a, first, b, second = load_packet(slots, i)
    return as_float32(a), as_float32(b)


@kernel
def all_reduce(slots, distances, me, values, out, rounds):
    """One-shot: pairs of values as packets {x, epoch, y, epoch} to all PEs, two slot sets by the epoch's parity."""
    began, pes = clock(), distances.shape[0]
    threads = grid_size() * block_size()
    i = block_index() * block_size() + thread_index()
    for epoch in range(1, rounds + 1):
        tag, half = uint32(epoch), (epoch & 1) * pes * threads
        x, y = as_bits(values[2 * i] * float32(epoch)), as_bits(values[2 * i + 1] * float32(epoch))
        for pe in range(pes):
            store_packet(peer(slots, distances[pe]), 4 * (half + me * threads + i), x, tag, y, tag)
        first, second = float32(0), float32(0)
        for pe in range(pes):
            a, b = receive(slots, 4 * (half + pe * threads + i), tag, began)
            first += a
            second += b
        out[2 * i], out[2 * i + 1] = first, second


def test_packets_between_pes(run, symmetric, device, distances, comm, shape):
    threads, rounds = shape[0] * shape[1], 25
    slots = symmetric(2 * comm.size * threads * 4, np.uint32)
    values, out = device.array(2 * threads, np.float32), device.array(2 * threads, np.float32)
    mine = np.random.default_rng(comm.rank).standard_normal(2 * threads).astype(np.float32)
    values.fill(mine)
    run(all_reduce, shape, slots, distances, comm.rank, values, out, rounds)
    want = np.zeros(2 * threads, np.float32)
    for part in comm.allgather(mine):  # in PE order, so to the last bit
        want += part * np.float32(rounds)
    np.testing.assert_array_equal(out.numpy(), want)
    assert len(set(comm.allgather(out.numpy().tobytes()))) == 1
