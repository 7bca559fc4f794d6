"""Attention of one token over the KV cache, its context split over the blocks (flash-decoding; Dao et al., 2023).

A unit is one KV head and one part of the context; positions go to parts in turn, `granule` at a time, so a position's
keys and values are written and read by one block only and need no order beyond the block's barrier. Each unit computes
the softmax-weighted values of its positions for the `group` query heads that share the KV head (`attend`), and publishes
them with their maximum and sum; the blocks then merge the parts, a pair of output dimensions to a warp (`merge`).

Shared memory of a unit, float32: the group's queries and the key [group + 1, head_dim], the value [head_dim], scores
[group, CHUNK], and for each query its running maximum, sum and correction.
"""

from collections import namedtuple

from .backend import (
    as_bits,
    as_float32,
    block_index,
    exp,
    float32,
    function,
    lane_index,
    local,
    store_half,
    store_packet,
    sync_block,
    thread_index,
    uint32,
    warp_index,
    warp_max,
    warp_size,
    warp_sum,
)
from .bfloat16 import high, low, pack
from .packets import BATCH, receive, receive_batch
from .rope import normalise_head, rotate_head
from .watch import ATTENTION, PARTIAL, QUERY

Cache = namedtuple("Cache", "keys values rope head_norms")
Cache.__doc__ = """keys, values: uint32 [layers * kv_heads * max_context * head_dim / 2], bf16 pairs. rope: float32 table of
`rotate_head`. head_norms: float32 [layers * 2 * head_dim], weights for queries and keys."""
CHUNK = 64  # positions whose scores stand in shared memory at a time
LOWEST = -1e30  # a score below every real one, and far from overflow


@function
def attend(plan, cache, channels, scratch, layer, position, step, limits):
    """All units of this block for the token at `position`, whose query, key and value come by channel (block)."""
    for unit in range(block_index(), plan.kv_heads * plan.parts, plan.grid):
        head, part = unit // plan.parts, unit % plan.parts
        owner = (position // plan.granule) % plan.parts == part
        receive_heads(plan, channels, scratch, head, owner, step, limits)
        sync_block()
        prepare_heads(plan, cache, scratch, layer, position, owner)
        sync_block()
        row = (layer * plan.kv_heads + head) * plan.max_context
        if owner:
            append(plan, cache, scratch, row + position)
        start_softmax(plan, scratch)
        sync_block()
        weigh(plan, cache, channels, scratch, row, part, positions_of_part(plan, part, position + 1), unit, step)
        sync_block()


@function
def positions_of_part(plan, part, context):
    """How many of the first `context` positions belong to `part`."""
    cycle = plan.granule * plan.parts
    rest = context % cycle - part * plan.granule
    return (context // cycle) * plan.granule + max(0, min(rest, plan.granule))


@function
def position_in_part(plan, part, number):
    return (number // plan.granule) * plan.granule * plan.parts + part * plan.granule + number % plan.granule


@function
def receive_heads(plan, channels, scratch, head, owner, step, limits):
    """The group's queries, and the new key and value if this part holds the position, from the qkv channel (block)."""
    half = plan.head_dim // 2
    at = plan.channel_qkv + 4 * (step & 1) * plan.qkv_pairs
    vectors = plan.group + (2 if owner else 0)
    for i in range(thread_index(), vectors * half, plan.block):
        vector = i // half
        source = head * plan.group + vector  # among all heads: queries, keys, values
        if vector >= plan.group:
            source = plan.heads + (vector - plan.group) * plan.kv_heads + head
        a, b = receive(channels, at + 4 * (source * half + i % half), uint32(step), limits, QUERY, limits.pe)
        scratch[2 * i] = as_float32(a)
        scratch[2 * i + 1] = as_float32(b)


@function
def prepare_heads(plan, cache, scratch, layer, position, owner):
    """Head norms and rotation; queries are also scaled by head_dim ** -0.5 (block)."""
    for vector in range(warp_index(), plan.group + (1 if owner else 0), plan.warps):
        is_key = vector == plan.group
        if plan.qk_norm:
            row = (2 * layer + (1 if is_key else 0)) * plan.head_dim
            normalise_head(plan, scratch, vector * plan.head_dim, cache.head_norms, row)
        factor = float32(1) if is_key else plan.score_scale
        rotate_head(plan, scratch, vector * plan.head_dim, cache.rope, position, factor)


@function
def append(plan, cache, scratch, row):
    """The new key and value into the cache (block)."""
    half = plan.head_dim // 2
    for d in range(thread_index(), half, plan.block):
        key = plan.group * plan.head_dim + 2 * d
        value = key + plan.head_dim
        cache.keys[row * half + d] = pack(scratch[key], scratch[key + 1])
        cache.values[row * half + d] = pack(scratch[value], scratch[value + 1])


@function
def start_softmax(plan, scratch):
    for g in range(thread_index(), plan.group, plan.block):
        scratch[plan.scratch_maximum + g] = float32(LOWEST)
        scratch[plan.scratch_sum + g] = float32(0)


@function
def weigh(plan, cache, channels, scratch, row, part, count, unit, step):
    """Scores, softmax and weighted values over the part's `count` positions, then their packets (block)."""
    half = plan.head_dim // 2
    first, second = local(plan.attention_items, float32), local(plan.attention_items, float32)
    for item in range(plan.attention_items):
        first[item] = float32(0)
        second[item] = float32(0)
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        score_chunk(plan, cache, scratch, row, part, start, size)
        sync_block()
        softmax_chunk(plan, scratch, size)
        sync_block()
        for item in range(plan.attention_items):
            i = thread_index() + item * plan.block
            if i < plan.group * half:
                g, d = i // half, i % half
                correction = scratch[plan.scratch_correction + g]
                a, b = first[item] * correction, second[item] * correction
                for n in range(size):
                    weight = scratch[plan.scratch_scores + g * CHUNK + n]
                    word = cache.values[(row + position_in_part(plan, part, start + n)) * half + d]
                    a += weight * low(word)
                    b += weight * high(word)
                first[item], second[item] = a, b
        sync_block()
    tag = uint32(step)
    at = plan.channel_partial + 4 * ((step & 1) * plan.units + unit) * plan.group * (half + 1)
    for item in range(plan.attention_items):
        i = thread_index() + item * plan.block
        if i < plan.group * half:
            packet = (i // half) * (half + 1) + i % half
            store_packet(channels, at + 4 * packet, as_bits(first[item]), tag, as_bits(second[item]), tag)
    for g in range(thread_index(), plan.group, plan.block):
        maximum, total = as_bits(scratch[plan.scratch_maximum + g]), as_bits(scratch[plan.scratch_sum + g])
        store_packet(channels, at + 4 * (g * (half + 1) + half), maximum, tag, total, tag)


@function
def score_chunk(plan, cache, scratch, row, part, start, size):
    """scores[g, n] = query g times key n, a position to a warp (block)."""
    half = plan.head_dim // 2
    for n in range(warp_index(), size, plan.warps):
        key = (row + position_in_part(plan, part, start + n)) * half
        dots = local(plan.group, float32)
        for g in range(plan.group):
            dots[g] = float32(0)
        for d in range(lane_index(), half, warp_size()):
            word = cache.keys[key + d]
            a, b = low(word), high(word)
            for g in range(plan.group):
                dots[g] += a * scratch[g * plan.head_dim + 2 * d] + b * scratch[g * plan.head_dim + 2 * d + 1]
        for g in range(plan.group):
            score = warp_sum(dots[g])
            if lane_index() == 0:
                scratch[plan.scratch_scores + g * CHUNK + n] = score


@function
def softmax_chunk(plan, scratch, size):
    """Scores become weights relative to the running maximum; a query to a warp (block)."""
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
def merge(plan, channels, step, limits):
    """Pairs of output dimensions over the parts, published to all blocks as bf16; a pair to a warp, a part to a lane."""
    half = plan.head_dim // 2
    tag = uint32(step)
    for number in range(warp_index(), plan.attention_local, plan.warps):
        pair = block_index() * plan.attention_local + number
        if pair < plan.heads * half:
            head, d = pair // half, pair % half
            at = plan.channel_partial + 4 * ((step & 1) * plan.units + head // plan.group * plan.parts) * plan.group * (half + 1)
            at += 4 * (head % plan.group) * (half + 1)
            best, total, upper, lower = float32(LOWEST), float32(0), float32(0), float32(0)
            for part in range(lane_index(), plan.parts, warp_size()):
                there = at + 4 * part * plan.group * (half + 1)
                a, b = receive(channels, there + 4 * half, tag, limits, PARTIAL, limits.pe)
                c, d2 = receive(channels, there + 4 * d, tag, limits, PARTIAL, limits.pe)
                maximum = max(best, as_float32(a))
                old, new = exp(best - maximum), exp(as_float32(a) - maximum)
                total = total * old + as_float32(b) * new
                upper = upper * old + as_float32(c) * new
                lower = lower * old + as_float32(d2) * new
                best = maximum
            maximum = warp_max(best)
            factor = exp(best - maximum)
            total, upper, lower = warp_sum(total * factor), warp_sum(upper * factor), warp_sum(lower * factor)
            if lane_index() == 0:
                at_pair = plan.channel_attention + 2 * ((step & 1) * plan.attention_pairs + pair)
                store_half(channels, at_pair, pack(upper / total, lower / total), tag)


@function
def receive_vector(plan, channels, at, words, tag, x, limits, operation):
    """A published vector of `words` bf16 pairs (a multiple of 2) into `x` (uint32 in shared memory) (block)."""
    data = local(8, uint32)
    packets = words // 2
    for first in range(thread_index(), packets, BATCH * plan.block):
        receive_batch(channels, at, first, plan.block, packets, tag, data, limits, operation)
        for b in range(BATCH):
            packet = first + b * plan.block
            if packet < packets:
                x[2 * packet] = data[2 * b]
                x[2 * packet + 1] = data[2 * b + 1]


@function
def receive_attention(plan, channels, step, x, limits):
    """The attention's output of all local heads, as the output projection's input (block)."""
    at = plan.channel_attention + 2 * (step & 1) * plan.attention_pairs
    receive_vector(plan, channels, at, plan.attention_pairs, uint32(step), x, limits, ATTENTION)
