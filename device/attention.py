"""Attention of a pass's tokens over the KV cache, the context split over the blocks (flash-decoding; Dao et al., 2023).

A unit is one KV head and one part of the context. Positions go to parts in turn, GRANULE at a time, so a position's
keys and values are written and read by one block only and need no order beyond the block's barrier. A unit computes the
softmax-weighted values of its positions for the `group` query heads that share the KV head (`attend`), and publishes
them with their maximum and sum; the blocks then merge the parts (merge.py).

The vectors of a pass's tokens stand side by side: query, key or value number v of token t is row v * tokens + t.
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
    prefetch,
    score_keys,
    store_packet,
    thread_index,
    uint16,
    uint32,
    warp_index,
    warp_max,
    warp_size,
    warp_sum,
    weigh_values,
)
from .bfloat16 import low, pack
from .packets import receive_batch, wait_for_packet
from .rope import normalise_head, rotate_head
from .watch import QUERY
from .workers import sync_workers

GRANULE = 16  # positions that lie together in the cache
TILE = 8  # keys, or dimensions of values, that a warp takes at once
LOWEST = -1e30  # a score below every real one, and far from overflow

Cache = namedtuple("Cache", "keys values head_norms")
Cache.__doc__ = """keys: uint16 bf16 [layers, kv_heads, positions, head_dim]. values: uint16 bf16 [layers, kv_heads,
positions / GRANULE, head_dim, GRANULE]. head_norms: float32 [layers, 2, head_dim], for queries and keys."""
Scratch = namedtuple("Scratch", "vectors queries scores weights totals rotation")
Scratch.__doc__ = """A unit's shared memory. vectors: float32 [group, tokens, head_dim], the results. queries: uint16
bf16 [group, tokens, head_dim]. scores: float32 and weights: uint16 bf16 [group,
tokens, part_positions]. totals: float32 [group, tokens, 2], the maximum of the scores and the sum of the weights.
rotation: float32 [tokens, head_dim], of `rotate_head`, the same for all layers of a pass."""


@function
def attend(plan, cache, channels, scratch, layer, position, step, limits):
    """All units of this block for the pass's tokens, of which the first is at `position` (block).

    Their queries, keys and values come by channel. The scratch must be free: this begins with no barrier.
    """
    rows = plan.group * plan.tokens
    unit = uint32(block_index())
    while unit < plan.units:
        head, part = head_and_part(plan, unit)
        row = (layer * plan.kv_heads + head) * plan.cache_positions
        granules = granules_of_part(plan, part, position + plan.tokens)
        tiles = uint32(granules * (GRANULE // TILE))
        receive_heads(plan, cache, channels, scratch, layer, head, part, position, step, limits)
        sync_workers(plan)
        tile = uint32(warp_index())
        while tile < tiles:
            at = (row + first_position(plan, part, tile >> 1) + (tile & 1) * TILE) * plan.head_dim
            to = uint32(tile * TILE)
            score_keys(scratch.queries, rows, cache.keys, at, plan.head_dim, scratch.scores, to, plan.part_positions)
            tile = uint32(tile + plan.warps)
        sync_workers(plan)
        softmax(plan, scratch, part, position, uint32(granules * GRANULE))
        sync_workers(plan)
        at = (row + first_position(plan, part, 0)) * plan.head_dim
        tile = uint32(warp_index())
        while tile < plan.head_dim // TILE:
            weigh_values(
                *(scratch.weights, rows, plan.part_positions),
                *(cache.values, at, GRANULE * plan.parts * plan.head_dim, granules),
                *(plan.head_dim, uint32(tile * TILE), scratch.vectors),
            )
            tile = uint32(tile + plan.warps)
        sync_workers(plan)
        publish_part(plan, channels, scratch, unit, step)
        sync_workers(plan)
        unit = uint32(unit + plan.grid)


@function
def positions_of_part(plan, part, context):
    """How many of the first `context` positions belong to `part` (thread)."""
    cycle, context, first = uint32(GRANULE * plan.parts), uint32(context), uint32(part * GRANULE)
    whole = uint32(context // cycle)
    rest = uint32(context - whole * cycle)
    own = min(uint32(rest - first), uint32(GRANULE)) if rest > first else uint32(0)
    return uint32(whole * GRANULE + own)


@function
def granules_of_part(plan, part, context):
    """In how many granules the part's positions among the first `context` lie (thread)."""
    return uint32(uint32(positions_of_part(plan, part, context) + (GRANULE - 1)) // uint32(GRANULE))


@function
def head_and_part(plan, unit):
    """A unit's KV head and part of the context (thread)."""
    head = uint32(unit // uint32(plan.parts))
    return head, uint32(unit - head * plan.parts)


@function
def owns(plan, part, position):
    """Whether `position` belongs to `part` (thread)."""
    return (position // GRANULE) % plan.parts == part


@function
def owns_any(plan, part, position):
    """Whether a position of the pass, whose first is `position`, belongs to `part` (thread).

    A pass is no longer than a granule, so it has positions in one or two: those of its first and its last token.
    """
    return owns(plan, part, position) or (plan.tokens > 1 and owns(plan, part, position + plan.tokens - 1))


@function
def first_position(plan, part, granule):
    """The first position of the part's granule number `granule` (thread)."""
    return (granule * plan.parts + part) * GRANULE


@function
def prefetch_cache(plan, cache, layer, position):
    """Asks for the keys and values that this block will read in `layer`: weights push them out of the L2 (block)."""
    unit = uint32(block_index())
    while unit < plan.units:
        head, part = head_and_part(plan, unit)
        granules = granules_of_part(plan, part, position)
        granule = uint32(thread_index())
        while granule < granules:
            row = (layer * plan.kv_heads + head) * plan.cache_positions + first_position(plan, part, granule)
            prefetch(cache.keys, row * plan.head_dim, 2 * GRANULE * plan.head_dim)
            prefetch(cache.values, row * plan.head_dim, 2 * GRANULE * plan.head_dim)
            granule = uint32(granule + plan.block)
        unit = uint32(unit + plan.grid)


@function
def receive_heads(plan, cache, channels, scratch, layer, head, part, position, step, limits):
    """The group's queries to `scratch`, the new keys and values that this part holds to the cache (block)."""
    count = plan.group + (2 if owns_any(plan, part, position) else 0)
    number = warp_index()
    while number < count * plan.tokens:
        vector, token = number // plan.tokens, number % plan.tokens
        if vector < plan.group or owns(plan, part, position + token):
            receive_head(plan, cache, channels, scratch, layer, head, vector, token, position + token, step, limits)
        number += plan.warps


@function
def receive_head(plan, cache, channels, scratch, layer, head, vector, token, position, step, limits):
    """A query of the group, or its key or value: normalised and rotated as it must be, rounded to bf16 (warp)."""
    half = plan.head_dim // 2
    source = head * plan.group + vector  # among all heads: queries, keys, values
    if vector >= plan.group:
        source = plan.heads + (vector - plan.group) * plan.kv_heads + head
    at = plan.channel_qkv + 4 * ((step & 1) * plan.qkv_pairs + source * half) * plan.tokens
    data, x, y = local(plan.head_words, uint32), local(plan.head_turns, float32), local(plan.head_turns, float32)
    wait_for_packet(channels, at, uint32(step), limits, QUERY)
    receive_batch(
        *(channels, at, lane_index() * plan.tokens + token, warp_size() * plan.tokens, half * plan.tokens),
        *(uint32(step), data, limits, QUERY, 0, plan.head_turns),
    )
    for turn in range(plan.head_turns):
        x[turn], y[turn] = as_float32(data[2 * turn]), as_float32(data[2 * turn + 1])
    if vector <= plan.group:
        is_key = vector == plan.group
        if plan.qk_norm:
            normalise_head(plan, x, y, cache.head_norms, (2 * layer + (1 if is_key else 0)) * plan.head_dim)
        rotate_head(plan, x, y, scratch.rotation, token, float32(1) if is_key else plan.score_scale)
    row = (layer * plan.kv_heads + head) * plan.cache_positions + position
    for turn in range(plan.head_turns):
        d = turn * warp_size() + lane_index()
        if d < half:
            upper, lower = bf16_bits(x[turn]), bf16_bits(y[turn])
            if vector < plan.group:
                to = (vector * plan.tokens + token) * plan.head_dim + d
                scratch.queries[to], scratch.queries[to + half] = upper, lower
            elif vector == plan.group:
                to = row * plan.head_dim + d
                cache.keys[to], cache.keys[to + half] = upper, lower
            else:
                to = (row - row % GRANULE) * plan.head_dim + row % GRANULE + d * GRANULE
                cache.values[to], cache.values[to + half * GRANULE] = upper, lower


@function
def bf16_bits(value):
    return uint16(pack(value, float32(0)))


@function
def softmax(plan, scratch, part, position, padded):
    """Scores become weights relative to their maximum, 0 for positions after the query's and up to `padded` (block).

    A query to a warp.
    """
    row = uint32(warp_index())
    while row < plan.group * plan.tokens:
        at, count = uint32(row * plan.part_positions), positions_of_part(plan, part, position + row % plan.tokens + 1)
        best, total = float32(LOWEST), float32(0)
        n = uint32(lane_index())
        while n < count:
            best = max(best, scratch.scores[at + n])
            n = uint32(n + warp_size())
        best = warp_max(best)
        n = uint32(lane_index())
        while n < padded:
            bits = pack(exp(scratch.scores[at + n] - best), float32(0)) if n < count else uint32(0)
            scratch.weights[at + n] = uint16(bits)
            total += low(bits)
            n = uint32(n + warp_size())
        total = warp_sum(total)
        if lane_index() == 0:
            scratch.totals[2 * row] = best
            scratch.totals[2 * row + 1] = total
        row = uint32(row + plan.warps)


@function
def publish_part(plan, channels, scratch, unit, step):
    """The unit's result as packets: for each query head_dim / 2 pairs, then its maximum and sum of weights (block)."""
    half, rows, tag = plan.head_dim // 2, plan.group * plan.tokens, uint32(step)
    at = plan.channel_partial + 4 * ((step & 1) * plan.units + unit) * rows * (half + 1)
    i = uint32(thread_index())
    while i < rows * (half + 1):
        row = uint32(i // uint32(half + 1))
        d = uint32(i - row * (half + 1))
        if d < half:
            first = uint32(row * plan.head_dim + 2 * d)
            a, b = scratch.vectors[first], scratch.vectors[first + 1]
        else:
            a, b = scratch.totals[2 * row], scratch.totals[2 * row + 1]
        store_packet(channels, at + 4 * i, as_bits(a), tag, as_bits(b), tag)
        i = uint32(i + plan.block)
