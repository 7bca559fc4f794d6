"""The parts of a split context become attention's output, which all blocks get: the output projection's input."""

from .attention import LOWEST
from .backend import (
    as_float32,
    block_index,
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
from .packets import receive_batch, wait_for_packet
from .watch import PARTIAL

MOST_TOGETHER = 4  # of `plan.merge_pairs`
MOST_WORDS = 2 * (MOST_TOGETHER + 1)


@function
def merge_parts(plan, channels, step, limits):
    """Pairs of output dimensions over the parts, to all blocks as bf16 (block).

    `plan.merge_pairs` pairs to a warp, a part to a lane.
    """
    turn = warp_index()
    while turn < plan.attention_local // plan.merge_pairs:
        pair = block_index() * plan.attention_local + turn * plan.merge_pairs
        if pair < plan.attention_pairs:
            merge_pairs(plan, channels, pair, step, limits)
        turn += plan.warps


@function
def merge_pairs(plan, channels, pair, step, limits):
    """Output dimensions 2 pair and on, all of one head (warp)."""
    half, tag = plan.head_dim // 2, uint32(step)
    head, d = pair // half, pair % half
    unit = (step & 1) * plan.units + head // plan.group * plan.parts
    row_words = 4 * (half + 1)
    at = plan.channel_partial + (unit * plan.group + head % plan.group) * row_words
    data, best, total = local(MOST_WORDS, uint32), float32(LOWEST), float32(0)
    upper, lower = local(MOST_TOGETHER, float32), local(MOST_TOGETHER, float32)
    for k in range(plan.merge_pairs):
        upper[k], lower[k] = float32(0), float32(0)
    wait_for_packet(channels, at + 4 * half, tag, limits, PARTIAL)
    for part in range(lane_index(), plan.parts, warp_size()):
        there = at + part * plan.group * row_words
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
    factor = exp(best - warp_max(best))
    whole = warp_sum(total * factor)
    for k in range(plan.merge_pairs):
        first_half, second_half = warp_sum(upper[k] * factor), warp_sum(lower[k] * factor)
        if lane_index() == 0:
            both = pack(first_half / whole, second_half / whole)
            to = plan.channel_attention + 2 * ((step & 1) * plan.attention_pairs + pair + k)
            store_half(channels, to, both, tag)
