"""The KV cache: how its positions go to parts of the context, and where it has each of them.

A unit of attention is one KV head and one part of the context. A position belongs to one part for good, so of generated
tokens its keys and values are stored and read by one block only: by the block's workers, and by its feeder once they
are settled.

Positions go to parts a page of PAGE at a time, to `plan.abreast` parts in turn. When each of these has `plan.depth`
pages it is the turn of the next `plan.abreast` of the `plan.parts` parts, and after the last ones of the first again.
So a short context has few parts to merge, and a long one has all blocks at work.
"""

from collections import namedtuple

from .backend import block_index, function, thread_index, uint16, uint32

GRANULE = 16  # positions whose keys, or values, tensor cores take together
PAGE = 2 * GRANULE  # positions that lie together
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
def parts_in_use(plan, context):
    """How many parts may have one of the first `context` positions; the others have none (thread)."""
    pages = uint32(uint32(context + (PAGE - 1)) // uint32(PAGE))
    turns = uint32(uint32(pages + (plan.abreast * plan.depth - 1)) // uint32(plan.abreast * plan.depth))
    return min(uint32(plan.parts), min(pages, uint32(turns * plan.abreast)))


@function
def positions_of_part(plan, part, context):
    """How many of the first `context` positions belong to `part` (thread)."""
    each, context = uint32(PAGE * plan.depth), uint32(context)  # a part's positions of a turn
    cycle = uint32(plan.parts * each)
    cycles = uint32(context // cycle)
    turn = uint32(part // uint32(plan.abreast))
    before = uint32(cycles * cycle + turn * plan.abreast * each)
    rest = min(uint32(context - before), uint32(plan.abreast * each)) if context > before else uint32(0)
    rows = uint32(rest // uint32(PAGE * plan.abreast))
    first = uint32((rows * plan.abreast + (part - turn * plan.abreast)) * PAGE)
    last = min(uint32(rest - first), uint32(PAGE)) if rest > first else uint32(0)
    return uint32(cycles * each + rows * PAGE + last)


@function
def pages_of_part(plan, part, context):
    """In how many pages the part's positions among the first `context` lie (thread)."""
    return uint32(uint32(positions_of_part(plan, part, context) + (PAGE - 1)) // uint32(PAGE))


@function
def settled_pages(plan, part, position):
    """How many of the part's pages the feeder may fetch for the token at `position` (thread).

    Those whose positions all were stored more than `plan.settling` tokens before it: so many tokens the feeder may be
    ahead of those who store them.
    """
    if position < plan.settling:
        return uint32(0)
    settled = min(uint32(position - plan.settling), uint32(plan.cache_positions))  # the feeder passes the last token
    return uint32(positions_of_part(plan, part, settled // uint32(PAGE) * uint32(PAGE)) // uint32(PAGE))


@function
def owns(plan, part, position):
    """Whether `position` belongs to `part` (thread)."""
    page = uint32(uint32(position) // uint32(PAGE))
    turn = uint32(page // uint32(plan.abreast * plan.depth)) % uint32(plan.parts // plan.abreast)
    return uint32(turn * plan.abreast + page % uint32(plan.abreast)) == part


@function
def first_position(plan, part, page):
    """The first position of the part's page number `page` (thread)."""
    cycle, row = page // plan.depth, page % plan.depth
    turn = part // plan.abreast
    turns = cycle * (plan.parts // plan.abreast) + turn
    return ((turns * plan.depth + row) * plan.abreast + part - turn * plan.abreast) * PAGE


@function
def granule_place(plan, layer, head, position):
    """Where the granule of `position` begins in Cache.keys and Cache.values (thread)."""
    return ((layer * plan.kv_heads + head) * (plan.cache_positions // GRANULE) + position // GRANULE) * (
        plan.granule_elements
    )


@function
def key_place(n, d):
    """Where a granule has dimension `d` of position `n`'s key: `attend_tile` reads it so (thread)."""
    return d // 16 * 256 + n % 8 * 32 + d // 4 % 4 * 8 + d // 2 % 2 * 4 + n // 8 * 2 + d % 2


@function
def value_place(n, d):
    """The same of its value."""
    return d // 16 * 256 + d // 2 % 8 * 32 + n // 2 % 4 * 8 + n // 8 * 4 + d % 2 * 2 + n % 2


@function
def clear_value(plan, values, granule, n, d):
    """Dimensions d and d + head_dim / 2 of a granule's position n, which is loaded before it has a token (thread).

    An overflow of an earlier request may have left there what is no number even times a weight of 0.
    """
    values[granule + value_place(n, d)] = values[granule + value_place(n, d + plan.head_dim // 2)] = uint16(0)


@function
def clear_page(plan, cache, position):
    """Clears the values behind `position` in its page, of all layers, where one of the block's units has it (block)."""
    half, n = plan.head_dim // 2, uint32(position % PAGE)
    rows, unit = uint32(PAGE - n), uint32(block_index())
    while unit < plan.units:
        head, part = head_and_part(plan, unit)
        i = uint32(thread_index())
        while i < plan.layers * rows * half and owns(plan, part, position):
            number = uint32(i // uint32(half))
            layer, d = uint32(number // rows), uint32(i - number * half)
            row = uint32(n + number - layer * rows)
            granule = granule_place(plan, layer, head, position - n + row)
            clear_value(plan, cache.values, granule, row % uint32(GRANULE), d)
            i = uint32(i + plan.block)
        unit = uint32(unit + plan.grid)
