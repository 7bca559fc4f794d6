"""Attention of a pass's tokens, each over all positions up to its own (flash attention; Dao et al., 2023).

A KV head's queries are rows: of each token the `group` that share the head. A unit is a KV head, a band of its rows,
eight to each of a block's warps, and a part of the context: as many parts as give every block a unit. All warps of a
block go over the part together (context.py). What its parts have found of a row is then merged by any block.
"""

from ..attention import LOWEST
from ..backend import (
    anew,
    as_float32,
    attend_tile,
    begin_attention,
    block_index,
    divide,
    end_attention,
    exp,
    float32,
    function,
    int64,
    load_pair,
    load_vector,
    local,
    store_bits,
    thread_index,
    uint32,
    warp_index,
)
from ..bfloat16 import pack
from ..workers import sync_workers
from .context import TILE, begin_tiles, next_tile, wait_tile
from .ring import input_word

ROWS = 8  # of a warp
TOGETHER = 4  # parts whose results a thread loads at once
PAIRS, VECTORS = 2 * TOGETHER, 4 * TOGETHER  # words of them


@function
def bands_of(plan, count):
    """In how many bands the rows of `count` tokens are cut (thread)."""
    return uint32(uint32(plan.group * count + (plan.band - 1)) // uint32(plan.band))


@function
def tiles_of(position, count):
    """How many tiles the context has with a pass of `count` tokens whose first is at `position` (thread)."""
    return uint32(uint32(position + count + (TILE - 1)) // uint32(TILE))


@function
def parts_of(plan, position, count):
    """In how many parts the context is cut (thread)."""
    most = uint32(uint32(plan.grid) // uint32(plan.kv_heads * bands_of(plan, count)))
    return max(uint32(1), min(most, tiles_of(position, count)))


@function
def units_of(plan, position, count):
    """How many units there are (thread)."""
    return uint32(plan.kv_heads * bands_of(plan, count) * parts_of(plan, position, count))


@function
def attend(plan, cache, queries, counts, context, layer, position, count, sums):
    """What all units of this block find, to `sums` (block).

    queries: uint16 bf16 [kv_heads, tokens * group, head_dim]. counts: uint32 [band], shared. sums: float32 [units,
    band, sum_row], of each row its `end_attention`.
    """
    unit = uint32(block_index())
    while unit < units_of(plan, position, count):
        attend_unit(plan, cache, queries, counts, context, layer, position, count, unit, sums)
        unit = uint32(unit + plan.grid)


@function
def attend_unit(plan, cache, queries, counts, context, layer, position, count, unit, sums):
    """A part of the context for a band of rows (block)."""
    bands, parts, tiles = bands_of(plan, count), parts_of(plan, position, count), tiles_of(position, count)
    number = uint32(unit // parts)
    head = uint32(number // bands)
    first_row, part = uint32((number - head * bands) * plan.band), uint32(unit - number * parts)
    tile, end = uint32(uint32(tiles * part) // parts), uint32(uint32(tiles * (part + 1)) // parts)
    begin_tiles(plan, cache, context, layer, head, tile, end)
    row = uint32(thread_index())
    while row < plan.band:
        token = uint32(uint32(first_row + row) // uint32(plan.group))
        counts[row] = uint32(position + token + 1)
        row = uint32(row + plan.block)
    some, row = min(uint32(plan.band), uint32(plan.group * count - first_row)), uint32(ROWS * warp_index())
    rows = min(uint32(ROWS), uint32(some - row)) if row < some else uint32(0)
    held = local(plan.attention_floats, float32)
    if rows > 0:
        at = (head * (plan.tokens * plan.group) + first_row + row) * plan.head_dim
        begin_attention(held, queries, at, rows, plan.head_dim)
    sync_workers(plan)
    while tile < end:
        keys, values = wait_tile(plan, context)
        if rows > 0:
            attend_tile(
                *(held, counts, row, rows, context.tiles, keys, context.tiles, values),
                *(uint32(tile * TILE), plan.head_dim),
            )
        next_tile(plan, cache, context, layer, head, tile, end)
        tile = uint32(tile + 1)
    if rows > 0:
        row = uint32(anew(unit) * plan.band + ROWS * warp_index())
        end_attention(held, rows, plan.head_dim, sums, int64(row) * plan.sum_row, plan.sum_row)


@function
def merge_parts(plan, sums, position, count, x):
    """All rows' outputs over the parts, to x as the output projection's inputs (all threads of the grid)."""
    bands, parts = bands_of(plan, count), parts_of(plan, position, count)
    each, rows = uint32(plan.head_dim // 4), uint32(plan.group * count)  # a thread has two pairs of dimensions
    i = uint32(block_index() * plan.block + thread_index())
    while i < plan.kv_heads * rows * each:
        number = uint32(i // each)
        quad, head = uint32(i - number * each), uint32(number // rows)
        row = uint32(number - head * rows)
        band = uint32(row // uint32(plan.band))
        unit = uint32((head * bands + band) * parts)
        p, q, r, s = merge_row(plan, sums, (unit * plan.band + row - band * plan.band) * plan.sum_row, quad, parts)
        token = uint32(row // uint32(plan.group))
        query = uint32(head * plan.group + row - token * plan.group)
        word = uint32(query * (plan.head_dim // 2) + 2 * quad)
        store_bits(x, plan.x_o + input_word(plan, token, word), pack(p, q))
        store_bits(x, plan.x_o + input_word(plan, token, word + 1), pack(r, s))
        i = uint32(i + plan.grid * plan.block)


@function
def merge_row(plan, sums, at, quad, parts):
    """Dimensions 4 * quad to 4 * quad + 3 of the row that stands at `sums[at]` in its first part (thread)."""
    best, total = float32(LOWEST), float32(0)
    p = q = r = s = float32(0)
    pairs, vectors = local(PAIRS, float32), local(VECTORS, float32)
    part = uint32(0)
    while part < parts:
        for k in range(TOGETHER):  # all loads are under way before the first one is waited for
            there = at + min(uint32(part + k), uint32(parts - 1)) * (plan.band * plan.sum_row)
            a, b = load_pair(sums, there + plan.head_dim)
            pairs[2 * k], pairs[2 * k + 1] = as_float32(a), as_float32(b)
            c, d, e, f = load_vector(sums, there + 4 * quad)
            vectors[4 * k], vectors[4 * k + 1] = as_float32(c), as_float32(d)
            vectors[4 * k + 2], vectors[4 * k + 3] = as_float32(e), as_float32(f)
        for k in range(TOGETHER):
            if part + k < parts:
                top = max(best, pairs[2 * k])
                old, new = exp(best - top), exp(pairs[2 * k] - top)
                total = total * old + pairs[2 * k + 1] * new
                p, q = p * old + vectors[4 * k] * new, q * old + vectors[4 * k + 1] * new
                r, s = r * old + vectors[4 * k + 2] * new, s * old + vectors[4 * k + 3] * new
                best = top
        part = uint32(part + TOGETHER)
    return divide(p, total), divide(q, total), divide(r, total), divide(s, total)
