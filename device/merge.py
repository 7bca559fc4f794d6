"""The parts of a split context become attention's output, which all blocks get: the output projection's input."""

from .attention import LOWEST
from .backend import (
    as_float32,
    block_index,
    exp,
    float32,
    function,
    lane_index,
    store_half,
    uint32,
    warp_index,
    warp_max,
    warp_size,
    warp_sum,
)
from .bfloat16 import pack
from .packets import receive_two, wait_for_packet
from .watch import PARTIAL


@function
def merge_parts(plan, channels, step, limits):
    """Pairs of output dimensions over the parts, to all blocks as bf16; a pair to a warp, a part to a lane (block)."""
    rows = plan.group * plan.tokens
    half = plan.head_dim // 2
    tag = uint32(step)
    turn = warp_index()
    while turn < plan.attention_local * plan.tokens:
        number, token = turn // plan.tokens, turn % plan.tokens
        pair = block_index() * plan.attention_local + number
        if pair < plan.heads * half:
            head, d = pair // half, pair % half
            unit = (step & 1) * plan.units + head // plan.group * plan.parts
            row = head % plan.group * plan.tokens + token
            at = plan.channel_partial + 4 * (unit * rows + row) * (half + 1)
            wait_for_packet(channels, at + 4 * half, tag, limits, PARTIAL)
            best, total, upper, lower = float32(LOWEST), float32(0), float32(0), float32(0)
            for part in range(lane_index(), plan.parts, warp_size()):
                there = at + 4 * part * rows * (half + 1)
                a, b, c, e = receive_two(channels, there + 4 * half, there + 4 * d, tag, limits, PARTIAL, limits.pe)
                maximum = max(best, as_float32(a))
                old, new = exp(best - maximum), exp(as_float32(a) - maximum)
                total = total * old + as_float32(b) * new
                upper = upper * old + as_float32(c) * new
                lower = lower * old + as_float32(e) * new
                best = maximum
            maximum = warp_max(best)
            factor = exp(best - maximum)
            total, upper, lower = warp_sum(total * factor), warp_sum(upper * factor), warp_sum(lower * factor)
            if lane_index() == 0:
                to = ((step & 1) * plan.tokens + token) * plan.attention_pairs + pair
                store_half(channels, plan.channel_attention + 2 * to, pack(upper / total, lower / total), tag)
        turn += plan.warps
