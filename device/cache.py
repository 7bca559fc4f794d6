"""The KV cache: how its positions go to parts of the context, and where it has each of them.

A unit of attention is one KV head and one part of the context. Positions go to parts in turn, GRANULE at a time, so a
position's keys and values are written and read by one block only and need no order beyond the block's barrier.
"""

from collections import namedtuple

from .backend import (
    block_index,
    function,
    lane_index,
    prefetch,
    prefetch_line,
    thread_index,
    uint32,
    warp_index,
    warp_size,
)

GRANULE = 16  # positions that lie together
CACHE_LINE = 64  # elements of a line of the multiprocessor's own cache
Cache = namedtuple("Cache", "keys values head_norms")
Cache.__doc__ = """keys: uint16 bf16 [layers, kv_heads, positions / GRANULE, granule_elements]: a granule lies as tensor
cores take it, see `key_place`. values: the same, see `value_place`. head_norms: float32 [layers, 2, head_dim], for
queries and keys."""


@function
def head_and_part(plan, unit):
    """A unit's KV head and part of the context (thread)."""
    head = uint32(unit // uint32(plan.parts))
    return head, uint32(unit - head * plan.parts)


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
def owns(plan, part, position):
    """Whether `position` belongs to `part` (thread)."""
    return (position // GRANULE) % plan.parts == part


@function
def first_position(plan, part, granule):
    """The first position of the part's granule number `granule` (thread)."""
    return (granule * plan.parts + part) * GRANULE


@function
def granule_place(plan, layer, head, position):
    """Where the granule of `position` begins in Cache.keys and Cache.values (thread)."""
    return ((layer * plan.kv_heads + head) * (plan.cache_positions // GRANULE) + position // GRANULE) * (
        plan.granule_elements
    )


@function
def key_place(n, d):
    """Where a granule has dimension `d` of position `n`'s key: `attend_granules` reads it so (thread)."""
    return d // 16 * 256 + n % 8 * 32 + d // 4 % 4 * 8 + d // 2 % 2 * 4 + n // 8 * 2 + d % 2


@function
def value_place(n, d):
    """The same of its value."""
    return d // 16 * 256 + d // 2 % 8 * 32 + n // 2 % 4 * 8 + n // 8 * 4 + d % 2 * 2 + n % 2


@function
def prefetch_cache(plan, cache, layer, position):
    """Asks for the keys and values that this block will read in `layer`: weights push them out of the L2 (block)."""
    unit = uint32(block_index())
    while unit < plan.units:
        head, part = head_and_part(plan, unit)
        granules = granules_of_part(plan, part, position)
        granule = uint32(plan.block - 1 - thread_index())
        while granule < granules:
            at = granule_place(plan, layer, head, first_position(plan, part, granule))
            prefetch(cache.keys, at, 2 * plan.granule_elements)
            prefetch(cache.values, at, 2 * plan.granule_elements)
            granule = uint32(granule + plan.block)
        unit = uint32(unit + plan.grid)


@function
def prefetch_granule(plan, cache, at, warps):
    """Brings the first granule of each of so many warps closer; the part's first one begins at element `at` (block)."""
    line = uint32(lane_index())
    while warp_index() < warps and line < plan.granule_elements // CACHE_LINE:
        place = at + warp_index() * plan.parts * plan.granule_elements + CACHE_LINE * line
        prefetch_line(cache.keys, place)
        prefetch_line(cache.values, place)
        line = uint32(line + warp_size())
