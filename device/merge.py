"""The parts of a split context become attention's output, which all blocks get: the output projection's input.

What a warp merges stands together, apart from what others do: a line that many poll for is slow to be stored.
"""

from .backend import (
    DEVICE,
    anew,
    as_bits,
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
from .packets import receive_batch, wait_for_packet
from .watch import PARTIAL

MOST_TOGETHER = 4  # of `plan.merge_pairs`
MOST_WORDS = 2 * (MOST_TOGETHER + 1)
LOWEST = -1e30  # a score below every real one, and far from overflow


@function
def partial_place(plan, step, number, part):
    """The word where a part's packets for merge number `number` begin (thread).

    A merge takes `plan.merge_pairs` neighbouring pairs of a head's dimensions; their packets are the pairs and, last,
    the part's maximum and sum of weights.
    """
    merges = plan.heads * plan.head_merges
    return plan.channel_partial + 4 * (plan.merge_pairs + 1) * (((step & 1) * merges + number) * plan.parts + part)


@function
def merge_parts(plan, channels, parts, step, limits):
    """Pairs of output dimensions over the `parts` that are in use, to all blocks as bf16 (block).

    `plan.merge_pairs` pairs to a warp, a part to a lane.
    """
    turn = warp_index()
    while turn < plan.attention_local // plan.merge_pairs:
        number = uint32(block_index() * (plan.attention_local // plan.merge_pairs) + turn)
        if number < plan.heads * plan.head_merges:
            merge_pairs(plan, channels, number, parts, step, limits)
        turn += plan.warps


@function
def merge_pairs(plan, channels, number, parts, step, limits):
    """Output dimensions from 2 `plan.merge_pairs` `number` on, all of one head (warp)."""
    data, best, total = local(MOST_WORDS, uint32), float32(LOWEST), float32(0)
    upper, lower = local(MOST_TOGETHER, float32), local(MOST_TOGETHER, float32)
    for k in range(plan.merge_pairs):
        upper[k], lower[k] = float32(0), float32(0)
    first, packets = uint32(0), plan.merge_pairs + 1
    there = anew(uint32(partial_place(plan, step, number, lane_index())))  # found before the wait, not after it
    wait_for_packet(channels, partial_place(plan, step, number, 0), uint32(step), limits, PARTIAL)
    while first < parts:
        for word in range(2 * packets):  # a lane without a part
            data[word] = as_bits(float32(LOWEST)) if word == 2 * plan.merge_pairs else uint32(0)
        count = packets if first + lane_index() < parts else 0
        # together: lanes that go on one after another, as packets come, would each take as long as all
        receive_batch(channels, there, 0, 1, count, uint32(step), data, limits, PARTIAL, 0, packets, together=True)
        highest, weight = as_float32(data[2 * plan.merge_pairs]), as_float32(data[2 * plan.merge_pairs + 1])
        maximum = max(best, highest)
        old, new = exp(best - maximum), exp(highest - maximum)
        total = total * old + weight * new
        for k in range(plan.merge_pairs):
            upper[k] = upper[k] * old + as_float32(data[2 * k]) * new
            lower[k] = lower[k] * old + as_float32(data[2 * k + 1]) * new
        best = maximum
        first = uint32(first + warp_size())
        there = uint32(there + 4 * packets * warp_size())
    factor = exp(best - warp_max(best))
    whole = warp_sum(total * factor)
    for k in range(plan.merge_pairs):
        first_half, second_half = warp_sum(upper[k] * factor), warp_sum(lower[k] * factor)
        if lane_index() == 0:
            both = pack(divide(first_half, whole), divide(second_half, whole))
            pair = (step & 1) * plan.attention_pairs + number * plan.merge_pairs + k
            store_half(channels, plan.channel_attention + 2 * pair, both, uint32(step), DEVICE)
