"""Clusters of blocks (device/backend/README.md): their numbers, their barrier, what they send each other."""

import numpy as np
import pytest

from shmemtp.device import (
    barrier_expect,
    barrier_init,
    barrier_wait,
    block_index,
    block_size,
    cluster_rank,
    cluster_size,
    kernel,
    send_pair,
    shared,
    sync_block,
    sync_cluster,
    thread_index,
    uint32,
    uint64,
)
from shmemtp.errors import ShmemtpError

SHAPES = [(1, 1), (2, 2), (6, 3), (8, 4), (16, 8)]  # blocks, blocks of a cluster


@kernel
def count_off(out):
    out[2 * (block_index() * block_size() + thread_index())] = cluster_rank()
    out[2 * (block_index() * block_size() + thread_index()) + 1] = cluster_size()


@pytest.mark.parametrize("grid, cluster", SHAPES)
def test_numbers(device, grid, cluster):
    block = 2 * device.warp_size
    out = device.array(2 * grid * block, np.int64)
    launch(device, count_off, grid, block, cluster, out)
    ranks, sizes = out.numpy().reshape(grid, block, 2).transpose(2, 0, 1)
    np.testing.assert_array_equal(ranks, np.broadcast_to(np.arange(grid)[:, None] % cluster, (grid, block)))
    assert (sizes == cluster).all()


@kernel
def write_and_meet(out, seen, rounds):
    """In each round every block writes a number to device memory, and reads its neighbour's behind a barrier."""
    first, wrong = block_index() - cluster_rank(), 0
    for n in range(rounds):
        if thread_index() == 0:
            out[block_index()] = 1000 * n + block_index()
        sync_cluster()
        neighbour = first + (cluster_rank() + n) % cluster_size()
        if out[neighbour] != 1000 * n + neighbour:
            wrong += 1
        sync_cluster()
    seen[block_index() * block_size() + thread_index()] = wrong


@pytest.mark.parametrize("grid, cluster", SHAPES)
def test_a_barrier_orders_memory(device, grid, cluster):
    block = 2 * device.warp_size
    out, seen = device.array(grid, np.int64), device.array(grid * block, np.int64)
    seen.fill(np.full(grid * block, 99))
    launch(device, write_and_meet, grid, block, cluster, out, seen, 50)
    assert (seen.numpy() == 0).all()


@kernel
def pass_on(out, rounds):
    """In each round every thread sends a pair to each block of the cluster, which waits for all.

    No other barrier stands between the blocks: who sends in round n + 2 has what all sent in round n + 1.
    """
    barriers, words = shared(0, 2, uint64), shared(16, 4 * cluster_size() * block_size(), uint32)
    if thread_index() == 0:
        barrier_init(barriers, 0)
        barrier_init(barriers, 1)
    sync_cluster()
    wrong = 0
    for n in range(rounds):
        at = (n & 1) * 2 * cluster_size() * block_size()
        if thread_index() == 0:
            barrier_expect(barriers, n & 1, 8 * cluster_size() * block_size())
        mine = at + 2 * (cluster_rank() * block_size() + thread_index())
        value = uint32(10000 * n + 100 * cluster_rank() + thread_index())
        for rank in range(cluster_size()):
            send_pair(words, mine, rank, value, uint32(value + rank), barriers, n & 1)
        barrier_wait(barriers, n & 1, n >> 1 & 1)
        for rank in range(cluster_size()):
            there = at + 2 * (rank * block_size() + thread_index())
            told = uint32(10000 * n + 100 * rank + thread_index())
            if words[there] != told or words[there + 1] != uint32(told + cluster_rank()):
                wrong += 1
        sync_block()
    out[block_index() * block_size() + thread_index()] = wrong


@pytest.mark.parametrize("grid, cluster", SHAPES)
def test_pairs_come_to_every_block(device, grid, cluster):
    block = 2 * device.warp_size
    out = device.array(grid * block, np.int64)
    out.fill(np.full(grid * block, 99))
    launch(device, pass_on, grid, block, cluster, out, 100, shared_bytes=16 + 16 * cluster * block)
    assert (out.numpy() == 0).all()


@pytest.mark.parametrize("grid, cluster", [(6, 4), (16, 16), (4, 0)])
def test_clusters_that_cannot_be(device, grid, cluster):
    out = device.array(2 * grid, np.int64)
    compiled = device.compile(count_off, (out,), block=device.warp_size)
    with pytest.raises(ShmemtpError, match=f"{grid} blocks in clusters of {cluster}"):
        device.launch(compiled, grid, 1, (out,), cluster=cluster)


def test_how_many_fit(device):
    compiled = device.compile(count_off, (device.array(2, np.int64),), block=device.warp_size)
    for cluster in (1, 2, 8):
        assert (
            1 <= device.most_clusters(compiled, cluster, device.warp_size) <= max(1, device.multiprocessors // cluster)
        )


def launch(device, kernel, grid, block, cluster, *args, shared_bytes=0):
    compiled = device.compile(kernel, args, block=block)
    device.launch(compiled, grid, block, args, shared_bytes=shared_bytes, cluster=cluster).wait()
