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

MOST_TOGETHER = 4  # tokens times pairs that a warp merges at once: `plan.merge_tokens`, `plan.merge_pairs`
MOST_WORDS = 4 * MOST_TOGETHER


@function
def merge_parts(plan, channels, step, limits):
    """Pairs of output dimensions over the parts, to all blocks as bf16 (block).

    `plan.merge_pairs` pairs of `plan.merge_tokens` tokens to a warp, a part to a lane.
    """
    turns = plan.tokens // plan.merge_tokens
    turn = warp_index()
    while turn < plan.attention_local // plan.merge_pairs * turns:
        pair = block_index() * plan.attention_local + turn // turns * plan.merge_pairs
        if pair < plan.attention_pairs:
            merge_pairs(plan, channels, pair, turn % turns * plan.merge_tokens, step, limits)
        turn += plan.warps


@function
def merge_pairs(plan, channels, pair, first, step, limits):
    """Output dimensions 2 pair and on, all of one head, of tokens from number `first` on (warp)."""
    half, rows, tag = plan.head_dim // 2, plan.group * plan.tokens, uint32(step)
    head, d = pair // half, pair % half
    unit = (step & 1) * plan.units + head // plan.group * plan.parts
    row_words = 4 * (half + 1)
    at = plan.channel_partial + (unit * rows + head % plan.group * plan.tokens + first) * row_words
    data = local(MOST_WORDS, uint32)
    best, total = local(MOST_TOGETHER, float32), local(MOST_TOGETHER, float32)
    upper, lower = local(MOST_TOGETHER, float32), local(MOST_TOGETHER, float32)
    for n in range(plan.merge_tokens):
        best[n], total[n] = float32(LOWEST), float32(0)
        for k in range(plan.merge_pairs):
            i = n * plan.merge_pairs + k
            upper[i], lower[i] = float32(0), float32(0)
    wait_for_packet(channels, at + 4 * half, tag, limits, PARTIAL)
    for part in range(lane_index(), plan.parts, warp_size()):
        there = at + part * rows * row_words
        receive_batch(  # of each token the pairs, and what stands behind its row's pairs
            *(channels, there, d, 1, half + 1, tag, data, limits, PARTIAL, 0),
            *(plan.merge_pairs + 1, plan.merge_tokens, row_words, half),
        )
        for n in range(plan.merge_tokens):
            row = 2 * n * (plan.merge_pairs + 1)
            behind = row + 2 * plan.merge_pairs
            highest, weight = as_float32(data[behind]), as_float32(data[behind + 1])
            maximum = max(best[n], highest)
            old, new = exp(best[n] - maximum), exp(highest - maximum)
            total[n] = total[n] * old + weight * new
            for k in range(plan.merge_pairs):
                i = n * plan.merge_pairs + k
                upper[i] = upper[i] * old + as_float32(data[row + 2 * k]) * new
                lower[i] = lower[i] * old + as_float32(data[row + 2 * k + 1]) * new
            best[n] = maximum
    for n in range(plan.merge_tokens):
        factor = exp(best[n] - warp_max(best[n]))
        whole = warp_sum(total[n] * factor)
        to = ((step & 1) * plan.tokens + first + n) * plan.attention_pairs + pair
        for k in range(plan.merge_pairs):
            i = n * plan.merge_pairs + k
            first_half, second_half = warp_sum(upper[i] * factor), warp_sum(lower[i] * factor)
            if lane_index() == 0:
                both = pack(first_half / whole, second_half / whole)
                store_half(channels, plan.channel_attention + 2 * (to + k), both, tag)
