"""A part of the context as its block reads it: pages, each in its place in the weight stream's ring."""

from collections import namedtuple

from .backend import (
    block_index,
    commit_copies,
    copy_async,
    function,
    lane_index,
    load_vector,
    store_pair,
    thread_index,
    uint32,
    warp_size,
)
from .cache import (
    first_position,
    granule_place,
    head_and_part,
    owns,
    pages_of_part,
    parts_in_use,
    positions_of_part,
    settled_pages,
)

Part = namedtuple("Part", "layer head number pages settled fresh owns seen")
Part.__doc__ = """A part of a layer's KV head. number: of the part. pages: how many it has. settled: how many of them
the feeder fetches. fresh: the last page, where the workers bring it to its place while they await queries, or NO_PAGE.
owns: whether the token's position is one of the part's. seen: where in Scratch.parts stand eight times how many of its
positions the token sees."""
NO_PAGE = uint32(0xFFFFFFFF)
PIECE = 8  # elements that a lane copies at once
QUERIES = 8  # that `attend_tile` takes, each with a count
# Scratch.parts, in records: IN_USE, how many parts are; then of each of the block's units PAGES to OWNS, and SEEN.
IN_USE = 0
PAGES, SETTLED, FRESH, OWNS = range(4)
SEEN = 4
RECORD = SEEN + QUERIES


@function
def find_parts(plan, parts, position):
    """Of the block's units into Scratch.parts what is the same in all layers of the token at `position` (block)."""
    slot = uint32(plan.block - 1 - thread_index())  # the last warp has fewest of the token's elements to embed
    if slot == 0:
        parts[IN_USE] = parts_in_use(plan, position + 1)
    while slot < plan.block_units:
        unit, record = uint32(block_index() + slot * plan.grid), uint32(RECORD * (1 + slot))
        _, number = head_and_part(plan, unit)
        pages, settled = pages_of_part(plan, number, position + 1), settled_pages(plan, number, position)
        is_near = pages <= plan.stages // plan.batch  # then the last page has its place before the first one is read
        parts[record + PAGES], parts[record + SETTLED] = pages, settled
        parts[record + FRESH] = uint32(pages - 1) if is_near and settled < pages else NO_PAGE
        parts[record + OWNS] = uint32(1 if owns(plan, number, position) else 0)
        for query in range(QUERIES):
            parts[record + SEEN + query] = positions_of_part(plan, number, position + 1)
        slot = uint32(slot + plan.block)


@function
def part_of(plan, parts, slot, unit, layer):
    """The block's unit number `slot`, as `find_parts` found it (thread)."""
    head, number = head_and_part(plan, unit)
    record = uint32(RECORD * (1 + slot))
    pages, settled, fresh, is_owner = load_vector(parts, record)
    return Part(layer, head, number, pages, settled, fresh, is_owner != 0, record + SEEN)


@function
def place_of(plan, batch):
    """Where a page's keys begin in the ring; its values follow (thread)."""
    return uint32(batch * (plan.batch * plan.stage_elements))


@function
def copy_half(plan, stream, cache, part, page, is_value, to):
    """Starts copying the keys or the values of a page of the part to element `to` of the ring (warp)."""
    array = cache.values if is_value else cache.keys
    at = granule_place(plan, part.layer, part.head, first_position(plan, part.number, page))
    first, step = PIECE * lane_index(), PIECE * warp_size()
    to, at = to + first, at + first
    for turn in range((plan.page_elements + step - 1) // step):  # on a GPU a constant, and so is what is added
        if first + turn * step < plan.page_elements:
            copy_async(stream.ring, to + turn * step, array, at + turn * step)
    commit_copies()


@function
def clear_half(plan, array, at):
    """Clears a page's keys or values, which begin at `array[at:]` (warp).

    Positions that have no token yet are loaded with those that have, and an overflow of an earlier request may have
    left there what is no number even times a weight of 0.
    """
    pair = uint32(4 * lane_index())
    while pair < plan.page_elements:
        store_pair(array, at + pair, uint32(0), uint32(0))
        pair = uint32(pair + 4 * warp_size())
