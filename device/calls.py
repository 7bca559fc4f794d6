"""Kernels that are one collective each: what the host's calls launch (shmemtp/communicator.py), on any stream.

They may be started early, while the kernel before them still runs: they wait for it, and let the next kernel begin
likewise.
"""

from .all_gather import all_gather_grid
from .all_reduce import all_reduce_grid
from .all_reduce_norm import all_reduce_norm_block, all_reduce_norm_cluster
from .all_to_all import all_to_all_grid
from .backend import (
    block_index,
    block_size,
    float32,
    function,
    grid_size,
    int64,
    kernel,
    local,
    shared,
    start_next_kernel,
    uint32,
    uint64,
    wait_for_prior_kernel,
)
from .broadcast import broadcast_grid
from .cluster import open_box
from .communicator import prepare_lane, read_epochs
from .reduce_scatter import reduce_scatter_grid
from .sums import FEW


@function
def _lane_of(comm, state):
    """For a kernel that is one collective, which itself waits for the kernel before."""
    return prepare_lane(comm, state, True)


@function
def _wait_with_lane(comm, state):
    lane = prepare_lane(comm, state)
    wait_for_prior_kernel()
    start_next_kernel()
    return lane


@kernel
def all_reduce(call, comm, source, start, target, to, count):
    """call: Constants with the elements' `kind`. The rest, here and below: as the device function of that name."""
    lane = _lane_of(comm, local(comm.shape.lane_words, int64))
    all_reduce_grid(lane, call.kind, source, start, target, to, count)


@kernel
def all_gather(call, comm, source, start, target, to, count):
    lane = _lane_of(comm, local(comm.shape.lane_words, int64))
    all_gather_grid(lane, call.kind, source, start, target, to, count)


@kernel
def reduce_scatter(call, comm, source, start, target, to, count):
    lane = _lane_of(comm, local(comm.shape.lane_words, int64))
    reduce_scatter_grid(lane, call.kind, source, start, target, to, count)


@kernel
def all_to_all(call, comm, source, start, target, to, count):
    lane = _lane_of(comm, local(comm.shape.lane_words, int64))
    all_to_all_grid(lane, call.kind, source, start, target, to, count)


@kernel
def broadcast(call, comm, source, start, target, to, count, root):
    lane = _lane_of(comm, local(comm.shape.lane_words, int64))
    broadcast_grid(lane, call.kind, source, start, target, to, count, root)


@kernel
def all_reduce_norm_rows(call, comm, source, start, target, to, residual, at, weight, of, count, rows, eps):
    """Vectors of `count` elements, a block each: for many."""
    lane = _wait_with_lane(comm, local(comm.shape.lane_words, int64))
    sums, row = shared(0, max(FEW, block_size()), float32), block_index()
    while row < rows:
        read_epochs(lane)  # again for each: what a loop keeps, it waits for before it loads anything
        i = row * count
        all_reduce_norm_block(
            lane, call.kind, source, start + i, residual, at + i, weight, of, target, to + i, count, eps, sums
        )
        row += grid_size()


@kernel
def all_reduce_norm_clusters(call, comm, source, start, target, to, residual, at, weight, of, count, rows, eps):
    """Vectors of `count` elements, each by a cluster of `call.blocks` blocks, of which there are `rows`: for few."""
    words, barriers = shared(16, 4 * call.blocks, uint32), shared(0, 2, uint64)
    sums = shared(16 + 16 * call.blocks, max(FEW, block_size()), float32)
    box = open_box(words, barriers, local(1, int64))
    lane = _wait_with_lane(comm, local(comm.shape.lane_words, int64))
    read_epochs(lane)
    i = block_index() // call.blocks * count
    all_reduce_norm_cluster(
        *(lane, call.kind, source, start + i, residual, at + i, weight, of, target, to + i, count, eps),
        *(sums, box, call.blocks),
    )
