"""The sum over the threads of a block in a fixed order: the same bits for each of them."""

from .backend import (
    as_float32,
    block_size,
    float32,
    function,
    lane_index,
    load_vector,
    sync_block,
    warp_index,
    warp_size,
    warp_sum,
)

FEW = 8  # sums, which a thread loads at once


@function
def block_sum(lane, value, sums):
    """The sum of the threads' values (block).

    sums: float32 [warps, at least FEW] in shared memory, at a multiple of 16 bytes.
    """
    value, warps = warp_sum(value), (block_size() + warp_size() - 1) // warp_size()
    if lane_index() == 0:
        sums[warp_index()] = value
    sync_block()
    return _sum_of_few(sums, warps) if warps <= FEW else _sum_of_many(lane, sums, warps)


@function
def _sum_of_few(sums, warps):
    """By each thread alone: a second sum over a warp takes 120 cycles more."""
    a, b, c, d = load_vector(sums, 0)
    e, f, g, h = load_vector(sums, 4)
    first = (as_float32(a) + _value_if(warps > 1, b)) + (_value_if(warps > 2, c) + _value_if(warps > 3, d))
    second = (_value_if(warps > 4, e) + _value_if(warps > 5, f)) + (_value_if(warps > 6, g) + _value_if(warps > 7, h))
    return first + second


@function
def _value_if(there, bits):
    return as_float32(bits) if there else float32(0)


@function
def _sum_of_many(lane, sums, warps):
    part = float32(0)
    for turn in range(lane.shape.warp_turns):
        warp = turn * warp_size() + lane_index()
        if warp < warps:
            part += sums[warp]
    return warp_sum(part)
