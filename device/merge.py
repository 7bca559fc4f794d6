"""The parts of a split context become attention's output, which all blocks get: the output projection's input."""

from .attention import LOWEST
from .backend import (
    anew,
    as_float32,
    block_index,
    divide,
    exp,
    float32,
    function,
    lane_index,
    local,
    store_half,
    uint32,
    warp_index,
    warp_max,
    warp_size,
    warp_sum,
)
from .bfloat16 import pack
from .cache import parts_in_use
from .packets import receive_batch, wait_for_packet
from .watch import PARTIAL

MOST_TOGETHER = 4  # of `plan.merge_pairs`
MOST_WORDS = 2 * (MOST_TOGETHER + 1)


@function
def merge_parts(plan, channels, position, step, limits):
    """Pairs of output dimensions of the token at `position` over the parts, to all blocks as bf16 (block).

    `plan.merge_pairs` pairs to a warp, a part to a lane.
    """
    turn = warp_index()
    while turn < plan.attention_local // plan.merge_pairs:
        pair = block_index() * plan.attention_local + turn * plan.merge_pairs
        if pair < plan.attention_pairs:
            merge_pairs(plan, channels, pair, position, step, limits)
        turn += plan.warps


@function
def merge_pairs(plan, channels, pair, position, step, limits):
    """Output dimensions 2 pair and on, all of one head (warp)."""
    half, tag, pair = uint32(plan.head_dim // 2), uint32(step), uint32(pair)
    head = uint32(pair // half)
    d, kv_head = uint32(pair - head * half), uint32(head // uint32(plan.group))
    row_words = 4 * (plan.head_dim // 2 + 1)
    unit = (step & 1) * plan.units + kv_head * plan.parts
    at = plan.channel_partial + (unit * plan.group + head - kv_head * plan.group) * row_words
    there = anew(uint32(at + lane_index() * plan.group * row_words))  # found before the wait, not after it
    data, best, total = local(MOST_WORDS, uint32), float32(LOWEST), float32(0)
    upper, lower = local(MOST_TOGETHER, float32), local(MOST_TOGETHER, float32)
    for k in range(plan.merge_pairs):
        upper[k], lower[k] = float32(0), float32(0)
    wait_for_packet(channels, at + row_words - 4, tag, limits, PARTIAL)
    part, parts = uint32(lane_index()), parts_in_use(plan, position + 1)
    while part < parts:
        receive_batch(  # the pairs, and what stands behind the row's pairs
            *(channels, there, d, 1, half + 1, tag, data, limits, PARTIAL, 0, plan.merge_pairs + 1, half)
        )
        highest, weight = as_float32(data[2 * plan.merge_pairs]), as_float32(data[2 * plan.merge_pairs + 1])
        maximum = max(best, highest)
        old, new = exp(best - maximum), exp(highest - maximum)
        total = total * old + weight * new
        for k in range(plan.merge_pairs):
            upper[k] = upper[k] * old + as_float32(data[2 * k]) * new
            lower[k] = lower[k] * old + as_float32(data[2 * k + 1]) * new
        best = maximum
        part = uint32(part + warp_size())
        there = uint32(there + warp_size() * plan.group * row_words)
    factor = exp(best - warp_max(best))
    whole = warp_sum(total * factor)
    for k in range(plan.merge_pairs):
        first_half, second_half = warp_sum(upper[k] * factor), warp_sum(lower[k] * factor)
        if lane_index() == 0:
            both = pack(divide(first_half, whole), divide(second_half, whole))
            to = plan.channel_attention + 2 * ((step & 1) * plan.attention_pairs + pair + k)
            store_half(channels, to, both, tag)
