"""A part of the context as its block reads it: pages, each in its place in the weight stream's ring."""

from collections import namedtuple

from .backend import commit_copies, copy_async, function, lane_index, store_pair, uint32, warp_size
from .cache import first_position, granule_place, owns, pages_of_part, settled_pages

Part = namedtuple("Part", "layer head number pages settled owns fresh")
Part.__doc__ = """A part of a layer's KV head. number: of the part. pages: how many it has. settled: how many of them
the feeder fetches. owns: whether the token's position is one of the part's. fresh: the last page, where the workers
bring it to its place while they await queries, or NO_PAGE."""
NO_PAGE = uint32(0xFFFFFFFF)
PIECE = 8  # elements that a lane copies at once


@function
def part_of(plan, layer, head, number, position):
    """See Part (thread)."""
    pages = pages_of_part(plan, number, position + 1)
    settled = settled_pages(plan, number, position)
    is_near = pages <= plan.stages // plan.batch  # then the last page has its place before the first one is read
    fresh = uint32(pages - 1) if is_near and settled < pages else NO_PAGE
    return Part(layer, head, number, pages, settled, owns(plan, number, position), fresh)


@function
def place_of(plan, batch):
    """Where a page's keys begin in the ring; its values follow (thread)."""
    return uint32(batch * (plan.batch * plan.stage_elements))


@function
def copy_half(plan, stream, cache, part, page, is_value, to):
    """Starts copying the keys or the values of a page of the part to element `to` of the ring (warp)."""
    array = cache.values if is_value else cache.keys
    at = granule_place(plan, part.layer, part.head, first_position(plan, part.number, page))
    piece = uint32(PIECE * lane_index())
    while piece < plan.page_elements:
        copy_async(stream.ring, to + piece, array, at + piece)
        piece = uint32(piece + PIECE * warp_size())
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
