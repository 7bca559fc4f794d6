"""Attention of a pass's tokens, each over all positions up to its own.

A unit is a KV head and up to TOGETHER of the pass's queries that share it: rows v * count + t, query v of its group and
token t. Its block's warps share the context.
"""

from collections import namedtuple

from ..attention import LOWEST, TOGETHER, bf16_bits
from ..backend import (
    anew,
    as_float32,
    attend_granules,
    block_index,
    exp,
    float32,
    function,
    lane_index,
    load_vector,
    local,
    store_bits,
    thread_index,
    uint32,
    warp_index,
    warp_max,
    warp_size,
    warp_sum,
)
from ..bfloat16 import pack
from ..cache import GRANULE, granule_place
from ..rope import normalise_head, rotate_head
from ..workers import sync_workers
from .rows import load_head
from .stream import input_word

Scratch = namedtuple("Scratch", "queries counts vectors totals")
Scratch.__doc__ = """A unit's shared memory, as device/attention.py's. queries: uint16 bf16 [TOGETHER, head_dim].
counts: uint32 [TOGETHER]. vectors, totals: float32 [attending, TOGETHER, head_dim], [attending, TOGETHER, 2]."""


@function
def attend(plan, cache, rope, rows, scratch, layer, position, count, x):
    """All units of this block; their outputs to x as the output projection's inputs (block)."""
    granules = uint32(position + count + (GRANULE - 1)) // uint32(GRANULE)
    warps = min(granules, uint32(plan.attending))
    unit = uint32(block_index())
    while unit < plan.kv_heads * units_of_head(plan, count):
        head, first, some = unit_of(plan, unit, count)
        load_queries(plan, cache, rope, rows, scratch, layer, head, first, some, position, count)
        sync_workers(plan)
        if warp_index() < warps:
            attend_granules(
                *(scratch.queries, uint32(0), some, scratch.counts, cache.keys, cache.values),
                *(granule_place(plan, layer, head, 0), plan.granule_elements, uint32(warp_index()), warps, granules),
                *(plan.head_dim, scratch.vectors, scratch.totals),
            )
        unit = anew(unit)  # what follows from it is found again, and takes no registers meanwhile
        head, first, some = unit_of(plan, unit, count)
        sync_workers(plan)
        weigh_warps(plan, scratch, some, warps)
        sync_workers(plan)
        store_outputs(plan, scratch, head, first, some, warps, count, x)
        sync_workers(plan)
        unit = uint32(unit + plan.grid)


@function
def units_of_head(plan, count):
    """How many units a KV head's queries of `count` tokens are (thread)."""
    return uint32(plan.group * count + (TOGETHER - 1)) // uint32(TOGETHER)


@function
def unit_of(plan, unit, count):
    """A unit's KV head, its first row, and how many it has (thread)."""
    each = units_of_head(plan, count)
    head = uint32(unit // each)
    first = uint32((unit - head * each) * TOGETHER)
    return head, first, min(uint32(TOGETHER), uint32(plan.group * count - first))


@function
def load_queries(plan, cache, rope, rows, scratch, layer, head, first, some, position, count):
    """A unit's queries, normalised, rotated and scaled, and how many positions each sees (block)."""
    half = plan.head_dim // 2
    x, y = local(plan.head_turns, float32), local(plan.head_turns, float32)
    number = uint32(warp_index())
    while number < some:
        vector = uint32(uint32(first + number) // count)
        token = uint32(first + number - vector * count)
        load_head(plan, rows, token, head * plan.group + vector, x, y)
        if plan.qk_norm:
            normalise_head(plan, x, y, cache.head_norms, 2 * layer * plan.head_dim)
        rotate_head(plan, x, y, rope, position + token, plan.score_scale)
        for turn in range(plan.head_turns):
            d, to = turn * warp_size() + lane_index(), number * plan.head_dim
            if d < half:
                scratch.queries[to + d] = bf16_bits(x[turn])
                scratch.queries[to + d + half] = bf16_bits(y[turn])
        if lane_index() == 0:
            scratch.counts[number] = uint32(position + token + 1)
        number = uint32(number + plan.warps)


@function
def weigh_warps(plan, scratch, some, warps):
    """A query's output is the sum of its warps' vectors: each one's factor, in the place of its maximum (block)."""
    row = uint32(warp_index())
    while row < some:
        best, whole = float32(LOWEST), float32(0)
        warp = uint32(lane_index())
        while warp < warps:
            best = max(best, scratch.totals[2 * uint32(warp * some + row)])
            warp = uint32(warp + warp_size())
        best = warp_max(best)
        warp = uint32(lane_index())
        while warp < warps:
            at = uint32(2 * uint32(warp * some + row))
            scratch.totals[at] = exp(scratch.totals[at] - best)
            whole += scratch.totals[at] * scratch.totals[at + 1]
            warp = uint32(warp + warp_size())
        whole = warp_sum(whole)
        warp = uint32(lane_index())
        while warp < warps:
            scratch.totals[2 * uint32(warp * some + row)] /= whole
            warp = uint32(warp + warp_size())
        row = uint32(row + plan.warps)


@function
def store_outputs(plan, scratch, head, first, some, warps, count, x):
    """A unit's outputs, once its warps are weighed, to x (block)."""
    each = uint32(plan.head_dim // 4)  # a thread has two pairs of dimensions
    i = uint32(thread_index())
    while i < some * each:
        number, quad = uint32(i // each), uint32(i % each)
        p = q = r = s = float32(0)
        warp = uint32(0)
        while warp < warps:
            at = uint32(warp * some + number)
            factor = scratch.totals[2 * at]
            a, b, c, d = load_vector(scratch.vectors, uint32(at * plan.head_dim + 4 * quad))
            p, q = p + as_float32(a) * factor, q + as_float32(b) * factor
            r, s = r + as_float32(c) * factor, s + as_float32(d) * factor
            warp = uint32(warp + 1)
        vector = uint32(uint32(first + number) // count)
        token = uint32(first + number - vector * count)
        word = uint32((head * plan.group + vector) * (plan.head_dim // 2) + 2 * quad)
        store_bits(x, plan.x_o + input_word(plan, plan.o_columns, token, word), pack(p, q))
        store_bits(x, plan.x_o + input_word(plan, plan.o_columns, token, word + 1), pack(r, s))
        i = uint32(i + plan.block)
