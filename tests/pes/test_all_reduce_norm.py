"""All-reduce, residual add and RMSNorm in one: the device function against NumPy, by one block and by a whole grid."""

import elements
import numpy as np
import pytest
from collecting import channel

from shmemtp.device import (
    all_reduce_norm_block,
    all_reduce_norm_grid,
    all_reduce_norm_shares,
    block_index,
    block_size,
    float32,
    grid_size,
    int64,
    kernel,
    local,
    open_lane,
    shared,
    thread_index,
    uint16,
    uint32,
)
from shmemtp.device.backend import NAME
from shmemtp.device.element import KINDS

EPS = 1e-5
ROUNDS = 20


@kernel
def norm_blocks(comm, kind, source, residual, weight, target, count, rounds):
    """Each block does every vector whose number it divides, on its own lane."""
    lane = open_lane(comm, local(comm.shape.lane_words, int64))
    sums = shared(0, block_size(), float32)
    for n in range(block_index(), rounds, grid_size()):
        at = n * count
        all_reduce_norm_block(lane, kind, source, at, residual, at, weight, 0, target, at, count, float32(1e-5), sums)


@kernel
def norm_grid(comm, kind, source, residual, weight, target, count, rounds):
    """All blocks do each vector; target gets every block's copy: [blocks, rounds, count]."""
    lane = open_lane(comm, local(comm.shape.lane_words, int64))
    sums = shared(0, block_size(), float32)
    x = shared(4 * block_size(), (count + 3) // 4 * 2, uint32)
    for n in range(rounds):
        at = n * count
        all_reduce_norm_grid(lane, kind, source, at, residual, at, weight, 0, x, count, float32(1e-5), sums)
        for i in range(thread_index(), count, block_size()):
            target[(block_index() * rounds + n) * count + i] = uint16(x[i // 2] >> uint32(16 * (i % 2)))


@kernel
def norm_shares(comm, kind, source, residual, weight, target, count, rounds):
    lane = open_lane(comm, local(comm.shape.lane_words, int64))
    sums = shared(0, block_size(), float32)
    for n in range(rounds):
        at = n * count
        all_reduce_norm_shares(lane, kind, source, at, residual, at, weight, 0, target, at, count, float32(1e-5), sums)


def right(kind, sources, residual, weight):
    """(hidden in the kind's carrier, the normalised vector in float64), rows of [rounds, count]."""
    total = np.zeros(residual.shape, np.float32)
    for source in sources:
        total = total + elements.widen(kind, source)
    hidden = elements.narrow(kind, total + elements.widen(kind, residual))
    wide = elements.widen(kind, hidden).astype(np.float64)
    factor = 1 / np.sqrt((wide**2).mean(1, keepdims=True) + EPS)
    return hidden, wide * factor * elements.widen(kind, weight)


def given(pe, kind, count):
    """Every PE's sources, and residual and weight, which all share."""
    sources = [elements.random(kind, ROUNDS * count, 10 + rank).reshape(ROUNDS, count) for rank in range(pe.size)]
    residual = elements.random(kind, ROUNDS * count, 1).reshape(ROUNDS, count)
    return sources, residual, elements.random(kind, count, 2)


def on_device(pe, values):
    array = pe.device.array(values.size, values.dtype)
    array.fill(values.reshape(-1))
    return array


def assert_normed(kind, got, wanted):
    """One rounding apart at most."""
    step = {"bfloat16": 2**-8, "float16": 2**-10}[kind]
    np.testing.assert_allclose(elements.widen(kind, got), wanted, rtol=1.01 * step, atol=1e-6)


SHAPES = [(1, 32), (3, 64)] if NAME == "gpu" else [(1, 1), (3, 2), (2, 4)]


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
@pytest.mark.parametrize("algorithm", ["one-shot", "one-shot-put"])
def test_each_block_alone(pe, algorithm, kind):
    grid, block = SHAPES[1]
    count = 332  # more than an exchange of a lane
    sources, residual, weight = given(pe, kind, count)
    comm = channel(pe, algorithm, grid, hidden_packets=128)
    arrays = [on_device(pe, values) for values in (sources[pe.rank], residual, weight)]
    target = pe.device.array(ROUNDS * count, np.uint16)
    pe.run(norm_blocks, grid, block, comm, KINDS[kind], *arrays, target, count, ROUNDS, shared_bytes=4 * block)
    comm.check("norm_blocks")
    hidden, normed = right(kind, sources, residual, weight)
    np.testing.assert_array_equal(arrays[1].numpy().reshape(ROUNDS, count), hidden)
    assert_normed(kind, target.numpy().reshape(ROUNDS, count), normed)
    assert len(set(pe.comm.allgather(target.numpy().tobytes()))) == 1
    comm.free()


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("algorithm", ["one-shot", "one-shot-put"])
@pytest.mark.parametrize("count", [100, 332])
def test_a_share_for_each_block(pe, count, algorithm, shape):
    grid, block = shape
    kind = "float16"
    sources, residual, weight = given(pe, kind, count)
    comm = channel(pe, algorithm, grid, hidden_packets=128)
    comm.set_epochs((1 << 32) - 10)
    arrays = [on_device(pe, values) for values in (sources[pe.rank], residual, weight)]
    target = pe.device.array(ROUNDS * count, np.uint16)
    pe.run(norm_shares, grid, block, comm, KINDS[kind], *arrays, target, count, ROUNDS, shared_bytes=4 * block)
    comm.check("norm_shares")
    hidden, normed = right(kind, sources, residual, weight)
    np.testing.assert_array_equal(arrays[1].numpy().reshape(ROUNDS, count), hidden)
    assert_normed(kind, target.numpy().reshape(ROUNDS, count), normed)
    assert len(set(pe.comm.allgather(target.numpy().tobytes()))) == 1
    comm.free()


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("count", [100, 332])
def test_the_whole_grid(pe, count, shape):
    """Again and again: the packets among the blocks have two places."""
    grid, block = shape
    kind = "bfloat16"
    sources, residual, weight = given(pe, kind, count)
    comm = channel(pe, "one-shot", grid, hidden_packets=128)
    comm.set_epochs((1 << 32) - 10)
    arrays = [on_device(pe, values) for values in (sources[pe.rank], residual, weight)]
    target = pe.device.array(grid * ROUNDS * count, np.uint16)
    shared_bytes = 4 * block + 8 * ((count + 3) // 4)
    pe.run(norm_grid, grid, block, comm, KINDS[kind], *arrays, target, count, ROUNDS, shared_bytes=shared_bytes)
    comm.check("norm_grid")
    hidden, normed = right(kind, sources, residual, weight)
    np.testing.assert_array_equal(arrays[1].numpy().reshape(ROUNDS, count), hidden)
    copies = target.numpy().reshape(grid, ROUNDS, count)
    assert_normed(kind, copies[0], normed)
    np.testing.assert_array_equal(copies, np.broadcast_to(copies[0], copies.shape))
    assert len(set(pe.comm.allgather(copies.tobytes()))) == 1
    comm.free()
