"""The sum over the threads of a block in a fixed order: the same bits for each of them."""

from .backend import block_size, float32, function, lane_index, sync_block, warp_index, warp_size, warp_sum


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
