"""Sums over the threads of a block, or over the blocks of a grid, in a fixed order: the same bits for each of them."""

from .backend import (
    as_bits,
    as_float32,
    block_index,
    block_size,
    float32,
    function,
    grid_size,
    lane_index,
    store_packet,
    sync_block,
    sync_warp,
    thread_index,
    uint32,
    warp_index,
    warp_size,
    warp_sum,
)
from .communicator import SHOWN, limits_of, next_epoch
from .packets import receive
from .watch import HIDDEN


@function
def block_sum(lane, value, sums):
    """The sum of the threads' values; sums: float32 [warps] in shared memory (block)."""
    value = warp_sum(value)
    if lane_index() == 0:
        sums[warp_index()] = value
    sync_block()
    part = float32(0)
    for turn in range(lane.shape.warp_turns):
        warp = turn * warp_size() + lane_index()
        if warp * warp_size() < block_size():
            part += sums[warp]
    return warp_sum(part)


@function
def grid_sum(lane, value):
    """The sum of the blocks' values, the same for a block's threads; for the caller to `finish` SHOWN (grid)."""
    limits, shown = limits_of(lane), next_epoch(lane, SHOWN)
    tag, first = uint32(shown), 4 * (shown & 1) * lane.shape.hidden_packets
    if thread_index() == 0:
        store_packet(lane.hidden, first + 4 * block_index(), as_bits(value), tag, uint32(0), tag)
    part = float32(0)
    sync_warp()  # thread 0 stores before its warp waits
    for block in range(lane_index(), grid_size(), warp_size()):
        bits, _ = receive(lane.hidden, first + 4 * block, tag, limits, HIDDEN, limits.pe)
        part += as_float32(bits)
    return warp_sum(part)
