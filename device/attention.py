"""Attention of a token over the KV cache, the context split over the blocks (flash-decoding; Dao et al., 2023).

A unit is one KV head and one part of the context (cache.py). Its pages go to its block's first warps in turn; each
computes the softmax-weighted values of its positions for the `group` query heads that share the KV head. The block
publishes their sum with its maximum and the sum of the weights, and the blocks then merge the parts (merge.py).

Keys and values come by the weight stream, in pages, ahead of their use. A page of the newest positions, which the
feeder might fetch too early, has only its place in the stream: the workers bring it there.
"""

from collections import namedtuple

from .backend import (
    DEVICE,
    anew,
    as_bits,
    attend_tile,
    await_copies,
    barrier_fence,
    begin_attention,
    block_index,
    end_attention,
    exp,
    float32,
    function,
    local,
    store_packet,
    sync_warp,
    thread_index,
    uint32,
    warp_index,
)
from .cache import PAGE
from .heads import keep_new, receive_heads
from .merge import LOWEST, partial_place
from .part import IN_USE, NO_PAGE, QUERIES, copy_half, part_of, place_of
from .stream import pass_pages, release_page, wait_page
from .workers import sync_workers

Scratch = namedtuple("Scratch", "heads found rotation parts")
Scratch.__doc__ = """Attention's shared memory. Of a unit, in the same memory as the products' input: heads, uint16 bf16
[group + 2, head_dim], queries, then the token's key and value; found, float32 [warps, queries, sum_row], what
`plan.attending` warps have found for QUERIES queries or fewer, see `end_attention`. The same for all layers of a token:
rotation, float32 [head_dim], of `rotate_head`; parts, uint32 [1 + the block's units, RECORD], see part.py."""


@function
def attend(plan, stream, cache, channels, scratch, layer, position, step, limits):
    """All units of this block for the token at `position` (block).

    Their queries, keys and values come by channel. The scratch must be free: this begins with no barrier.
    """
    slot = uint32(0)
    while slot < plan.block_units:
        unit = uint32(anew(block_index()) + slot * plan.grid)  # what follows from it would take registers all the time
        part = part_of(plan, scratch.parts, slot, unit, layer)
        if unit < plan.units and part.number < scratch.parts[IN_USE]:
            attend_unit(plan, stream, cache, channels, scratch, part, position, step, limits)
        slot = uint32(slot + 1)


@function
def attend_unit(plan, stream, cache, channels, scratch, part, position, step, limits):
    """A part and its head's queries, as many together as a warp takes: a round of the stream each (block)."""
    warps = min(part.pages, uint32(plan.attending))
    receive_heads(plan, stream, cache, channels, scratch, part, position, step, limits)
    sync_workers(plan)
    if part.owns:
        keep_new(plan, cache, scratch, part, position)
        if part.fresh == NO_PAGE:  # its page comes from the cache
            sync_workers(plan)
    first = uint32(0)
    while first < plan.group:
        some = min(uint32(plan.group - first), uint32(QUERIES))
        if warp_index() < warps:
            attend_pages(plan, stream, cache, scratch, part, first, some)
        sync_workers(plan)
        publish_part(plan, channels, scratch, part, first, some, warps, step)
        sync_workers(plan)
        pass_pages(plan, stream, part.pages)
        first = uint32(first + QUERIES)


@function
def attend_pages(plan, stream, cache, scratch, part, first, some):
    """The warp's pages of a part, for `some` queries from number `first` on (warp)."""
    held = local(plan.attention_floats, float32)
    begin_attention(held, scratch.heads, first * plan.head_dim, some, plan.head_dim)
    page = uint32(warp_index())
    while page < part.pages:
        batch = wait_page(plan, stream, page)
        keys = place_of(plan, batch)
        values = uint32(keys + plan.page_elements)
        if page >= part.settled and not (page == part.fresh and first == 0):
            half = uint32(0)
            while half < 2:
                copy_half(plan, stream, cache, part, page, half == 1, values if half == 1 else keys)
                half = uint32(half + 1)
            await_copies(0)
            sync_warp()
        attend_tile(
            *(held, scratch.parts, part.seen, some, stream.ring, keys, stream.ring, values),
            *(uint32(PAGE * page), plan.head_dim),
        )
        if page >= part.settled:
            barrier_fence()  # the copy engine is about to overwrite what workers have written
        release_page(plan, stream, batch)
        page = uint32(page + plan.attending)
    to = warp_index() * some * plan.sum_row
    end_attention(held, some, plan.head_dim, scratch.found, to, plan.sum_row)


@function
def publish_part(plan, channels, scratch, part, first, some, warps, step):
    """The part's result for `some` queries from number `first` on, of so many warps, as merge.py wants it (block)."""
    tag, packets = uint32(step), plan.merge_pairs + 1
    first_merge = (part.head * plan.group + first) * plan.head_merges
    count = min(plan.group, QUERIES) * plan.head_merges * packets
    for turn in range((count + plan.block - 1) // plan.block):
        i = uint32(turn * plan.block + thread_index())
        merge = uint32(i // uint32(packets))
        row, k = uint32(merge // uint32(plan.head_merges)), uint32(i - merge * packets)
        if row < some:
            pair = uint32((merge - row * plan.head_merges) * plan.merge_pairs + k)
            if k == plan.merge_pairs:
                pair = uint32(plan.head_dim // 2)
            a, b = sum_warps(plan, scratch, row, pair, some, warps)
            at = partial_place(plan, step, first_merge + merge, part.number) + 4 * k
            store_packet(channels, at, as_bits(a), tag, as_bits(b), tag, DEVICE)


@function
def sum_warps(plan, scratch, row, pair, some, warps):
    """Query `row`'s pair of dimensions over all warps; behind the last pair its maximum and sum of weights (thread)."""
    is_total = pair == plan.head_dim // 2
    if warps == 1:  # as in short contexts
        at = uint32(_row_of(plan, 0, row, some) + 2 * pair)
        return scratch.found[at], scratch.found[at + 1]
    best, factors = float32(LOWEST), local(plan.attending, float32)
    for warp in range(plan.attending):
        factors[warp] = float32(LOWEST)
        if warp < warps:
            factors[warp] = scratch.found[_row_of(plan, warp, row, some) + plan.head_dim]
    for warp in range(plan.attending):
        best = max(best, factors[warp])
    a, b = float32(0), float32(0)
    for warp in range(plan.attending):
        if warp < warps:
            at, factor = uint32(_row_of(plan, warp, row, some) + 2 * pair), exp(factors[warp] - best)
            a += scratch.found[at] * factor
            b += scratch.found[at + 1] * factor
    return best if is_total else a, b


@function
def _row_of(plan, warp, row, some):
    return uint32(uint32(uint32(warp) * some + row) * plan.sum_row)
