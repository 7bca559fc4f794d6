"""All-reduce, residual add and RMSNorm in one: the device function against NumPy, by one block and by a whole grid."""

import elements
import numpy as np
import pytest
from collecting import channel

from shmemtp.device import (
    Constants,
    all_reduce_norm_block,
    all_reduce_norm_cluster,
    all_reduce_norm_grid,
    block_index,
    block_size,
    float32,
    grid_size,
    int64,
    kernel,
    load_residual,
    local,
    open_box,
    open_lane,
    shared,
    store_residual,
    sync_block,
    thread_index,
    uint16,
    uint32,
    uint64,
)
from shmemtp.device.backend import NAME
from shmemtp.device.element import KINDS
from shmemtp.errors import TimeoutError_

EPS = 1e-5
ROUNDS = 20


@kernel
def norm_blocks(comm, kind, source, residual, weight, target, count, rounds):
    """Each block does every vector whose number it divides, on its own lane."""
    lane = open_lane(comm, local(comm.shape.lane_words, int64))
    sums = shared(0, max(8, block_size()), float32)
    for n in range(block_index(), rounds, grid_size()):
        at = n * count
        all_reduce_norm_block(lane, kind, source, at, residual, at, weight, 0, target, at, count, float32(1e-5), sums)


@kernel
def norm_grid(shape, comm, kind, source, residual, weight, target, count, rounds):
    """All blocks do each vector; target gets every block's copy: [blocks, rounds, count].

    residual: [clusters, rounds, count]. The residual of a round is its own, which a kernel that keeps it would not do.
    """
    lane = open_lane(comm, local(comm.shape.lane_words, int64))
    words, eps = (count + 3) // 4 * 2, float32(1e-5)
    x, own = shared(16, words, uint32), shared(16 + 4 * words, words, uint32)
    received, sums = shared(16 + 8 * words, 2 * words, uint32), shared(16 + 16 * words, max(8, block_size()), float32)
    box = open_box(received, shared(0, 2, uint64), local(1, int64))
    for n in range(rounds):
        at = (block_index() // shape.blocks * rounds + n) * count
        load_residual(kind, residual, at, count, shape.blocks, own)
        sync_block()
        all_reduce_norm_grid(lane, kind, source, n * count, own, weight, 0, x, count, eps, sums, box, shape.blocks)
        store_residual(kind, residual, at, count, shape.blocks, own)
        for i in range(thread_index(), count, block_size()):
            target[(block_index() * rounds + n) * count + i] = uint16(x[i // 2] >> uint32(16 * (i % 2)))
        sync_block()


@kernel
def norm_clusters(shape, comm, kind, source, residual, weight, target, count, rounds):
    """Cluster c does vectors c, c + clusters, ..."""
    lane = open_lane(comm, local(comm.shape.lane_words, int64))
    received, sums = shared(16, 4 * shape.blocks, uint32), shared(16 + 16 * shape.blocks, max(8, block_size()), float32)
    box = open_box(received, shared(0, 2, uint64), local(1, int64))
    for n in range(block_index() // shape.blocks, rounds, grid_size() // shape.blocks):
        at, eps = n * count, float32(1e-5)
        all_reduce_norm_cluster(
            *(lane, kind, source, at, residual, at, weight, 0, target, at, count, eps, sums, box, shape.blocks),
        )


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
CLUSTERS = [(1, 2, 1), (3, 2, 1), (3, 2, 3), (4, 4, 2)]  # blocks, threads, blocks of a cluster
if NAME == "gpu":
    CLUSTERS = [(1, 64, 1), (3, 32, 1), (3, 64, 3), (4, 64, 2)]


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
@pytest.mark.parametrize("algorithm", ["one-shot", "one-shot-put"])
def test_each_block_alone(pe, algorithm, kind):
    grid, block = SHAPES[1]
    count = 332  # more than an exchange of a lane
    sources, residual, weight = given(pe, kind, count)
    comm = channel(pe, algorithm, grid, hidden_packets=128)
    arrays = [on_device(pe, values) for values in (sources[pe.rank], residual, weight)]
    target = pe.device.array(ROUNDS * count, np.uint16)
    pe.run(norm_blocks, grid, block, comm, KINDS[kind], *arrays, target, count, ROUNDS, shared_bytes=4 * max(8, block))
    comm.check("norm_blocks")
    hidden, normed = right(kind, sources, residual, weight)
    np.testing.assert_array_equal(arrays[1].numpy().reshape(ROUNDS, count), hidden)
    assert_normed(kind, target.numpy().reshape(ROUNDS, count), normed)
    assert len(set(pe.comm.allgather(target.numpy().tobytes()))) == 1
    comm.free()


@pytest.mark.parametrize("shape", CLUSTERS, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("algorithm", ["one-shot", "one-shot-put"])
@pytest.mark.parametrize("count", [100, 332])
def test_a_share_for_each_block_of_a_cluster(pe, count, algorithm, shape):
    grid, block, cluster = shape
    kind = "float16"
    sources, residual, weight = given(pe, kind, count)
    comm = channel(pe, algorithm, grid, hidden_packets=128)
    comm.set_epochs((1 << 32) - 10)
    arrays = [on_device(pe, values) for values in (sources[pe.rank], residual, weight)]
    target = pe.device.array(ROUNDS * count, np.uint16)
    args = (Constants(blocks=cluster), comm, KINDS[kind], *arrays, target, count, ROUNDS)
    pe.run(norm_clusters, grid, block, *args, shared_bytes=16 + 4 * max(8, block) + 16 * cluster, cluster=cluster)
    comm.check("norm_clusters")
    hidden, normed = right(kind, sources, residual, weight)
    np.testing.assert_array_equal(arrays[1].numpy().reshape(ROUNDS, count), hidden)
    assert_normed(kind, target.numpy().reshape(ROUNDS, count), normed)
    assert len(set(pe.comm.allgather(target.numpy().tobytes()))) == 1
    comm.free()


@pytest.mark.parametrize("shape", CLUSTERS, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("algorithm", ["one-shot", "one-shot-put"])
@pytest.mark.parametrize("count", [100, 332])
def test_the_whole_grid(pe, count, algorithm, shape):
    """Again and again: the packets among the blocks have two places."""
    grid, block, cluster = shape
    kind, clusters = "bfloat16", grid // cluster
    sources, residual, weight = given(pe, kind, count)
    comm = channel(pe, algorithm, grid, hidden_packets=128)
    comm.set_epochs((1 << 32) - 10)
    arrays = [on_device(pe, values) for values in (sources[pe.rank], np.tile(residual, (clusters, 1)), weight)]
    target = pe.device.array(grid * ROUNDS * count, np.uint16)
    args = (Constants(blocks=cluster), comm, KINDS[kind], *arrays, target, count, ROUNDS)
    shared_bytes = 16 + 4 * max(8, block) + 32 * ((count + 3) // 4)
    pe.run(norm_grid, grid, block, *args, shared_bytes=shared_bytes, cluster=cluster)
    comm.check("norm_grid")
    hidden, normed = right(kind, sources, residual, weight)
    for left in arrays[1].numpy().reshape(clusters, ROUNDS, count):
        np.testing.assert_array_equal(left, hidden)
    copies = target.numpy().reshape(grid, ROUNDS, count)
    assert_normed(kind, copies[0], normed)
    np.testing.assert_array_equal(copies, np.broadcast_to(copies[0], copies.shape))
    assert len(set(pe.comm.allgather(copies.tobytes()))) == 1
    comm.free()


KERNELS = pytest.mark.parametrize("kernel", [norm_blocks, norm_clusters, norm_grid], ids=["block", "cluster", "grid"])


@pytest.mark.skipif(NAME != "emulator", reason="a GPU checks nothing")
@KERNELS
def test_a_vector_that_is_too_long_or_not_there(pe, kernel):
    comm = channel(pe, "one-shot", 1, hidden_packets=128)
    arrays = [pe.device.array(520, np.uint16) for _ in range(4)]

    def norm(count, rounds):
        args = (comm, KINDS["bfloat16"], *arrays, count, rounds)
        args = args if kernel is norm_blocks else (Constants(blocks=1), *args)
        pe.run(kernel, 1, 1, *args, shared_bytes=1 << 14, cluster=1)

    norm(512, 1)
    with pytest.raises(ValueError, match="of 16 KiB at most"):
        norm(516, 1)
    if kernel is not norm_grid:
        with pytest.raises(ValueError, match="whole 8 bytes"):
            norm(330, 1)
        with pytest.raises(IndexError, match="elements that its array has not"):
            norm(332, 2)
    comm.free()


@KERNELS
def test_a_pe_that_does_not_come(pe, monkeypatch, kernel):
    """The blocks of a cluster wait for each other, too: all leave, and the last PE is named."""
    if pe.size == 1:
        pytest.skip("one PE waits for no other")
    monkeypatch.setattr(pe, "timeout_s", 1.5)
    grid, block, cluster, count, kind = 2, 2 * pe.device.warp_size, 2, 100, "bfloat16"
    sources, residual, weight = given(pe, kind, count)
    comm = channel(pe, "one-shot", grid, hidden_packets=128)
    arrays = [on_device(pe, values) for values in (sources[pe.rank], residual, weight)]
    target = pe.device.array(grid * ROUNDS * count, np.uint16)
    args = (comm, KINDS[kind], *arrays, target, count, ROUNDS)
    if kernel is not norm_blocks:
        args = (Constants(blocks=cluster), *args)
    if pe.rank < pe.size - 1:
        with pytest.raises(TimeoutError_, match=f"waited 1.5 s for .* from PE {pe.size - 1}"):
            pe.run(kernel, grid, block, *args, shared_bytes=2048, cluster=cluster)
    pe.barrier()
    comm.free()
