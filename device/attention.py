"""Attention of a token over the KV cache, the context split over the blocks (flash-decoding; Dao et al., 2023).

A unit is one KV head and one part of the context (cache.py). Its granules go to its block's first warps in turn; each
computes the softmax-weighted values of its positions for the `group` query heads that share the KV head. The block
publishes their sum with its maximum and the sum of the weights, and the blocks then merge the parts (merge.py).
"""

from collections import namedtuple

from .backend import (
    as_bits,
    as_float32,
    attend_granules,
    block_index,
    exp,
    float32,
    function,
    lane_index,
    local,
    store_packet,
    thread_index,
    uint16,
    uint32,
    warp_index,
    warp_size,
)
from .bfloat16 import pack
from .cache import (
    GRANULE,
    clear_value,
    first_position,
    granule_place,
    granules_of_part,
    head_and_part,
    key_place,
    owns,
    parts_in_use,
    positions_of_part,
    prefetch_granule,
    value_place,
)
from .packets import receive_batch, wait_for_packet
from .rope import normalise_head, rotate_head
from .watch import QUERY
from .workers import sync_workers

TOGETHER = 8  # queries that a warp takes at once
NEAR = 3  # granules that the multiprocessor's own cache has room for
LOWEST = -1e30  # a score below every real one, and far from overflow

Scratch = namedtuple("Scratch", "queries counts vectors totals rotation")
Scratch.__doc__ = """A unit's shared memory. queries: uint16 bf16 [group, head_dim]. counts: uint32 [group], how many of
the part's positions a query sees. vectors: float32 [warps, queries, head_dim], the results of
`plan.attending` warps for TOGETHER queries or fewer. totals: float32 [warps, queries, 2], the maximum of their scores
and the sum of their weights. rotation: float32 [head_dim], of `rotate_head`, the same for all layers of a
token."""


@function
def attend(plan, cache, channels, scratch, layer, position, step, limits):
    """All units of this block for the token at `position` (block).

    Their queries, keys and values come by channel. The scratch must be free: this begins with no barrier.
    """
    unit = uint32(block_index())
    while unit < plan.units:
        head, part = head_and_part(plan, unit)
        if part < parts_in_use(plan, position + 1):
            attend_unit(plan, cache, channels, scratch, unit, head, part, layer, position, step, limits)
        unit = uint32(unit + plan.grid)


@function
def attend_unit(plan, cache, channels, scratch, unit, head, part, layer, position, step, limits):
    """A unit of which some positions are there (block)."""
    granules = granules_of_part(plan, part, position + 1)
    warps = min(granules, uint32(plan.attending))
    at = granule_place(plan, layer, head, first_position(plan, part, warp_index()))
    if warp_index() < warps and warps <= NEAR:
        prefetch_granule(plan, cache, at)  # while the queries are on their way
    # What lies between a warp's granules, `attending` of the part's, is `attending` times this: first_position says so.
    step_elements = plan.parts * plan.granule_elements
    count_positions(plan, scratch.counts, part, position)
    receive_heads(plan, cache, channels, scratch, layer, head, part, position, step, limits)
    sync_workers(plan)
    first = uint32(0)
    while first < plan.group:
        some = min(uint32(plan.group - first), uint32(TOGETHER))
        if warp_index() < warps:
            attend_granules(
                *(scratch.queries, first, some, scratch.counts, cache.keys, cache.values),
                *(at - warp_index() * step_elements, step_elements, uint32(warp_index()), warps, granules),
                *(plan.head_dim, scratch.vectors, scratch.totals),
            )
        sync_workers(plan)
        publish_part(plan, channels, scratch, unit, first, some, warps, step)
        sync_workers(plan)
        first = uint32(first + TOGETHER)


@function
def count_positions(plan, counts, part, position):
    """Scratch.counts (block); by its last threads, for the first ones are about to wait for queries."""
    row = plan.block - 1 - thread_index()
    while row < plan.group:
        counts[row] = positions_of_part(plan, part, position + 1)
        row += plan.block


@function
def receive_heads(plan, cache, channels, scratch, layer, head, part, position, step, limits):
    """The group's queries to `scratch`, the new keys and values that this part holds to the cache (block)."""
    count = plan.group + (2 if owns(plan, part, position) else 0)
    number = warp_index()
    while number < count:
        receive_head(plan, cache, channels, scratch, layer, head, number, position, step, limits)
        number += plan.warps


@function
def receive_head(plan, cache, channels, scratch, layer, head, vector, position, step, limits):
    """A query of the group, or its key or value: normalised and rotated as it must be, rounded to bf16 (warp)."""
    half = plan.head_dim // 2
    source = head * plan.group + vector  # among all heads: queries, keys, values
    if vector >= plan.group:
        source = plan.heads + (vector - plan.group) * plan.kv_heads + head
    at = plan.channel_qkv + 4 * ((step & 1) * plan.qkv_pairs + source * half)
    data, x, y = local(plan.head_words, uint32), local(plan.head_turns, float32), local(plan.head_turns, float32)
    wait_for_packet(channels, at, uint32(step), limits, QUERY)
    receive_batch(
        *(channels, at, lane_index(), warp_size(), half),
        *(uint32(step), data, limits, QUERY, 0, plan.head_turns),
    )
    for turn in range(plan.head_turns):
        x[turn], y[turn] = as_float32(data[2 * turn]), as_float32(data[2 * turn + 1])
    if vector <= plan.group:
        is_key = vector == plan.group
        if plan.qk_norm:
            normalise_head(plan, x, y, cache.head_norms, (2 * layer + (1 if is_key else 0)) * plan.head_dim)
        rotate_head(plan, x, y, scratch.rotation, 0, float32(1) if is_key else plan.score_scale)
    granule, n = granule_place(plan, layer, head, position), position % GRANULE
    for turn in range(plan.head_turns):
        d = turn * warp_size() + lane_index()
        if d < half:
            upper, lower = bf16_bits(x[turn]), bf16_bits(y[turn])
            if vector < plan.group:
                to = vector * plan.head_dim + d
                scratch.queries[to], scratch.queries[to + half] = upper, lower
            elif vector == plan.group:
                cache.keys[granule + key_place(n, d)], cache.keys[granule + key_place(n, d + half)] = upper, lower
            else:
                cache.values[granule + value_place(n, d)] = upper
                cache.values[granule + value_place(n, d + half)] = lower
                behind = uint32(1 if n == 0 else GRANULE)
                while behind < GRANULE:
                    clear_value(plan, cache.values, granule, behind, d)
                    behind = uint32(behind + 1)


@function
def bf16_bits(value):
    return uint16(pack(value, float32(0)))


@function
def publish_part(plan, channels, scratch, unit, first, some, warps, step):
    """The unit's result for `some` queries from number `first` on, of so many warps' granules (block).

    As packets: for each query head_dim / 2 pairs, then its maximum and sum of weights.
    """
    half, tag = plan.head_dim // 2, uint32(step)
    at = plan.channel_partial + 4 * (((step & 1) * plan.units + unit) * plan.group + first) * (half + 1)
    for turn in range((min(plan.group, TOGETHER) * (half + 1) + plan.block - 1) // plan.block):
        i = uint32(turn * plan.block + thread_index())
        if i < some * (half + 1):
            row = uint32(i // uint32(half + 1))
            a, b = sum_warps(plan, scratch, row, uint32(i - row * (half + 1)), some, warps)
            store_packet(channels, at + 4 * i, as_bits(a), tag, as_bits(b), tag)


@function
def sum_warps(plan, scratch, row, pair, some, warps):
    """Query `row`'s pair of dimensions over all warps; behind the last pair its maximum and sum of weights (thread)."""
    is_total = pair == plan.head_dim // 2
    best, factors = float32(LOWEST), local(plan.attending, float32)
    for warp in range(plan.attending):
        factors[warp] = float32(LOWEST)
        if warp < warps:
            factors[warp] = scratch.totals[2 * uint32(uint32(warp) * some + row)]
    for warp in range(plan.attending):
        best = max(best, factors[warp])
    a, b = best if is_total else float32(0), float32(0)
    for warp in range(plan.attending):
        if warp < warps:
            at = uint32(uint32(warp) * some + row)
            factor = exp(factors[warp] - best)
            if is_total:
                b += scratch.totals[2 * at + 1] * factor
            else:
                first = uint32(at * plan.head_dim + 2 * pair)
                a += scratch.vectors[first] * factor
                b += scratch.vectors[first + 1] * factor
    return a, b
