"""Keys and values of the context in shared memory: tiles of two granules, by the copy engine, a few ahead of their use.

They lie where the ring of a product is at other times. Thread 0 of the workers starts the copies; all workers go from
tile to tile together.
"""

from collections import namedtuple

from ..backend import (
    barrier_end,
    barrier_expect,
    barrier_init,
    barrier_wait,
    bulk_load,
    function,
    shared,
    thread_index,
    uint16,
    uint32,
    uint64,
)
from ..cache import PAGE, granule_place
from ..workers import sync_workers

TILE = PAGE  # positions
PLACE, PARITY = range(2)
STATE_FIELDS = 2
Context = namedtuple("Context", "state tiles landed")
Context.__doc__ = """state: uint32 [STATE_FIELDS], the thread's own: the next tile's place, and its landing's
parity. tiles: uint16 bf16 [places, keys and values, 2 * granule_elements]. landed: uint64 mbarriers, one for each
place."""


@function
def open_context(plan, state):
    """Needs a `barrier_fence` and a barrier of all threads behind it (all threads). state: `local`, the caller's."""
    context = Context(
        state,
        shared(plan.shared_ring, plan.places * 4 * plan.granule_elements, uint16),
        shared(plan.shared_context_landed, plan.places, uint64),
    )
    for field in range(STATE_FIELDS):
        state[field] = uint32(0)
    if thread_index() == 0:
        for place in range(plan.places):
            barrier_init(context.landed, place)
    return context


@function
def end_context(plan, context):
    """The barriers' memory may serve others, once all threads have met (thread 0)."""
    for place in range(plan.places):
        barrier_end(context.landed, place)


@function
def begin_tiles(plan, cache, context, layer, head, tile, end):
    """Starts the copies of the first of tiles `tile` to `end - 1` of a KV head (block)."""
    if thread_index() == 0:
        place, end = context.state[PLACE], min(uint32(end), uint32(tile + plan.places))
        while tile < end:
            _fetch(plan, cache, context, layer, head, tile, place)
            tile, place = uint32(tile + 1), uint32(place + 1) if place + 1 < plan.places else uint32(0)


@function
def _fetch(plan, cache, context, layer, head, tile, place):
    """Starts the copies of one tile (thread)."""
    at, nbytes = granule_place(plan, layer, head, tile * TILE), 4 * plan.granule_elements
    to = place * (4 * plan.granule_elements)
    barrier_expect(context.landed, place, 2 * nbytes)
    bulk_load(context.tiles, to, cache.keys, at, nbytes, context.landed, place, once=False)
    values = to + 2 * plan.granule_elements
    bulk_load(context.tiles, values, cache.values, at, nbytes, context.landed, place, once=False)


@function
def wait_tile(plan, context):
    """The elements of `context.tiles` where the next tile's keys and values begin, once they are there (worker).

    Without a limit: thread 0 has started the copies, which depend on no PE and no other block.
    """
    barrier_wait(context.landed, context.state[PLACE], context.state[PARITY])
    at = uint32(context.state[PLACE] * (4 * plan.granule_elements))
    return at, uint32(at + 2 * plan.granule_elements)


@function
def next_tile(plan, cache, context, layer, head, tile, end):
    """All workers have read tile `tile`: its place is another one's (block)."""
    sync_workers(plan)
    if thread_index() == 0 and tile + plan.places < end:
        _fetch(plan, cache, context, layer, head, uint32(tile + plan.places), context.state[PLACE])
    context.state[PLACE] += uint32(1)
    if context.state[PLACE] == plan.places:
        context.state[PLACE] = uint32(0)
        context.state[PARITY] ^= uint32(1)
