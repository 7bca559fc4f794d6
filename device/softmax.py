"""Softmax-weighted values of one unit of attention, chunk by chunk with a running maximum (Milakov & Gimelshein, 2018).

Shared memory, pairs of bf16 and the unit's positions are explained in attention.py. All functions are a block's.
"""

from .backend import (
    as_bits,
    exp,
    float32,
    function,
    lane_index,
    local,
    store_packet,
    sync_block,
    thread_index,
    uint32,
    warp_index,
    warp_max,
    warp_size,
    warp_sum,
)
from .bfloat16 import high, low

CHUNK = 64  # positions whose scores stand in shared memory at a time
LOWEST = -1e30  # a score below every real one, and far from overflow
TOGETHER = 4  # positions whose keys a warp loads at once: the memory's latency is paid once for all
VALUES_TOGETHER = 8  # positions whose values a thread loads at once


@function
def position_in_part(plan, part, number):
    """The position that is number `number` of a part (thread)."""
    return (number // plan.granule) * plan.granule * plan.parts + part * plan.granule + number % plan.granule


@function
def start_softmax(plan, scratch):
    for g in range(thread_index(), plan.group, plan.block):
        scratch[plan.scratch_maximum + g] = float32(LOWEST)
        scratch[plan.scratch_sum + g] = float32(0)


@function
def weigh_chunks(plan, cache, scratch, row, part, count, first, second):
    """Weighted sums of the part's first `count` values; row: the cache's row of position 0.

    first, second: float32 [attention_items], each thread's pairs of output dimensions: item i of thread t is pair
    t + i * block of the [group, head_dim / 2] pairs.
    """
    for item in range(plan.attention_items):
        first[item] = float32(0)
        second[item] = float32(0)
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        score_chunk(plan, cache, scratch, row, part, start, size)
        sync_block()
        softmax_chunk(plan, scratch, size)
        sync_block()
        add_values(plan, cache, scratch, row, part, start, size, first, second)
        sync_block()


@function
def score_chunk(plan, cache, scratch, row, part, start, size):
    """scores[g, n] = query g times key n; a warp takes TOGETHER positions at a time."""
    half = plan.head_dim // 2
    words, dots = local(plan.key_words, uint32), local(plan.key_dots, float32)
    for base in range(TOGETHER * warp_index(), size, TOGETHER * plan.warps):
        for j in range(TOGETHER):
            n = min(base + j, size - 1)  # loads past the end read the last key again
            key = (row + position_in_part(plan, part, start + n)) * half
            for k in range(plan.lane_words):
                d = lane_index() + k * warp_size()
                words[j * plan.lane_words + k] = cache.keys[key + d] if d < half else uint32(0)
        for i in range(plan.key_dots):
            dots[i] = float32(0)
        for k in range(plan.lane_words):
            d = lane_index() + k * warp_size()
            for g in range(plan.group):
                a = scratch[g * plan.head_dim + 2 * d] if d < half else float32(0)
                b = scratch[g * plan.head_dim + 2 * d + 1] if d < half else float32(0)
                for j in range(TOGETHER):
                    word = words[j * plan.lane_words + k]
                    dots[g * TOGETHER + j] += a * low(word) + b * high(word)
        for g in range(plan.group):
            for j in range(TOGETHER):
                score = warp_sum(dots[g * TOGETHER + j])
                if lane_index() == 0 and base + j < size:
                    scratch[plan.scratch_scores + g * CHUNK + base + j] = score


@function
def softmax_chunk(plan, scratch, size):
    """Scores become weights relative to the running maximum; a query to a warp."""
    for g in range(warp_index(), plan.group, plan.warps):
        at = plan.scratch_scores + g * CHUNK
        best = float32(LOWEST)
        for n in range(lane_index(), size, warp_size()):
            best = max(best, scratch[at + n])
        before = scratch[plan.scratch_maximum + g]
        best = max(before, warp_max(best))
        total = float32(0)
        for n in range(lane_index(), size, warp_size()):
            weight = exp(scratch[at + n] - best)
            scratch[at + n] = weight
            total += weight
        total = warp_sum(total)
        if lane_index() == 0:
            correction = exp(before - best)
            scratch[plan.scratch_correction + g] = correction
            scratch[plan.scratch_sum + g] = scratch[plan.scratch_sum + g] * correction + total
            scratch[plan.scratch_maximum + g] = best


@function
def add_values(plan, cache, scratch, row, part, start, size, first, second):
    """The chunk's values times their weights onto the thread's items."""
    half = plan.head_dim // 2
    words = local(8, uint32)
    for item in range(plan.attention_items):
        i = thread_index() + item * plan.block
        if i < plan.group * half:
            g, d = i // half, i % half
            correction = scratch[plan.scratch_correction + g]
            a, b = first[item] * correction, second[item] * correction
            for base in range(0, size, VALUES_TOGETHER):
                for j in range(VALUES_TOGETHER):
                    n = min(base + j, size - 1)
                    words[j] = cache.values[(row + position_in_part(plan, part, start + n)) * half + d]
                for j in range(VALUES_TOGETHER):
                    if base + j < size:
                        weight = scratch[plan.scratch_scores + g * CHUNK + base + j]
                        a += weight * low(words[j])
                        b += weight * high(words[j])
            first[item], second[item] = a, b


@function
def publish_part(plan, channels, scratch, first, second, unit, step):
    """The unit's sums as packets: [group][head_dim / 2 pairs, then the query's maximum and sum of weights]."""
    half, tag = plan.head_dim // 2, uint32(step)
    at = plan.channel_partial + 4 * ((step & 1) * plan.units + unit) * plan.group * (half + 1)
    for item in range(plan.attention_items):
        i = thread_index() + item * plan.block
        if i < plan.group * half:
            packet = (i // half) * (half + 1) + i % half
            store_packet(channels, at + 4 * packet, as_bits(first[item]), tag, as_bits(second[item]), tag)
    for g in range(thread_index(), plan.group, plan.block):
        maximum, total = as_bits(scratch[plan.scratch_maximum + g]), as_bits(scratch[plan.scratch_sum + g])
        store_packet(channels, at + 4 * (g * (half + 1) + half), maximum, tag, total, tag)
