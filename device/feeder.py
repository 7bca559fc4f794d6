"""The feeder: one thread that keeps the weight stream's ring full, and asks the L2 for what comes next while it is.

`plan.in_flight` batches are under way at a time: what the memory needs to deliver at its full rate (Little's law), or
one less where waiting for each other takes blocks longer. More of them would only queue up there, and what blocks tell
each other would wait behind them: scripts/bench_stream.py.

While the workers wait for each other and the ring is full, the memory would stand still. So up to `plan.ahead` batches
behind the ring's are brought into the L2, one every `plan.ahead_cycles`: a little slower than the memory of an H200
delivers.

The weights push keys and values out of the L2. So the feeder has those that its block will read first in a layer come
back, a granule with each batch from the layer before's down on: all at once they would stand in the way of what blocks
tell each other.
"""

from .backend import (
    barrier_expect,
    barrier_test,
    barrier_wait,
    block_index,
    bulk_load,
    cycles,
    function,
    lane_index,
    local,
    pause,
    prefetch,
    sync_warp,
    uint32,
)
from .cache import first_position, granule_place, granules_of_part, head_and_part
from .sequence import CURSOR_FIELDS, DOWN, LAYER, PASS, PRODUCT, copy_cursor, next_batch, open_cursor
from .stream import advance

# Places in the ring, in batches of stages: the one that is filled next and the one that lands next, with the parities
# of their landing.
FILLED, FILLED_PARITY, LANDING, LANDING_PARITY = range(4)
PLACES = 4
# Of the keys and values: the layer, the part's next granule, how many to ask for, and the product of the last batch.
CONTEXT_LAYER, CONTEXT_NEXT, CONTEXT_COUNT, LAST_PRODUCT = range(4)
CONTEXT_FIELDS = 4


@function
def feed(plan, stream, weights, cache, first_wanted, position):
    """Fetches tiles until the workers need no more; no copy is under way then (the feeder's warp).

    weights: uint16 bf16 in device memory. first_wanted: see sequence.py. position: of the first pass's token.
    """
    if lane_index() == 0:
        places, cursor, far = local(PLACES, uint32), local(CURSOR_FIELDS, uint32), local(CURSOR_FIELDS, uint32)
        context = local(CONTEXT_FIELDS, uint32)
        for place in range(PLACES):
            places[place] = uint32(0)
        for field in range(CONTEXT_FIELDS):
            context[field] = uint32(0)
        open_cursor(plan, cursor, first_wanted)
        for _ in range(plan.in_flight):
            _fetch(plan, stream, weights, places, cursor, first_wanted)
        needed, lead, since = True, 0, cycles()  # lead: how many batches `far` is ahead of `cursor`
        idle = 0  # looks at a full ring
        while needed:
            if barrier_test(stream.free, places[FILLED], places[FILLED_PARITY] ^ uint32(1)):
                _await_landing(plan, stream, places)
                _fetch(plan, stream, weights, places, cursor, first_wanted)
                _ask_for_granule(plan, cache, cursor, position, context)
                lead, since, idle = max(lead - 1, 0), cycles(), 0
            elif lead < plan.ahead and cycles() - since >= plan.ahead_cycles:
                if lead == 0:
                    copy_cursor(cursor, far)
                at, nbytes = next_batch(plan, far, first_wanted)
                prefetch(weights, at, nbytes)
                lead, since = lead + 1, cycles()
            else:
                needed, idle = not barrier_test(stream.closed, 0, 0), idle + 1
                pause(0, idle)
        for _ in range(plan.in_flight):
            _await_landing(plan, stream, places)
    sync_warp()


@function
def _await_landing(plan, stream, places):
    """Waits for the oldest batch under way (thread)."""
    barrier_wait(stream.landed, places[LANDING], places[LANDING_PARITY])
    advance(places, LANDING, LANDING_PARITY, 1, plan.stages // plan.batch)


@function
def _fetch(plan, stream, weights, places, cursor, first_wanted):
    """Starts the copy of the next batch of tiles into the ring's next stages (thread)."""
    at, nbytes = next_batch(plan, cursor, first_wanted)
    batch = places[FILLED]
    barrier_expect(stream.landed, batch, nbytes)
    to = batch * (plan.batch * plan.stage_elements)
    bulk_load(stream.ring, to, weights, at, nbytes, stream.landed, batch)
    advance(places, FILLED, FILLED_PARITY, 1, plan.stages // plan.batch)


@function
def _ask_for_granule(plan, cache, cursor, position, context):
    """Has the next granule of the block's first unit come to the L2, where one is due (thread)."""
    unit = uint32(block_index())
    if cursor[PRODUCT] == DOWN and context[LAST_PRODUCT] != DOWN:
        is_last = cursor[LAYER] + 1 == plan.layers
        seen = uint32(position + cursor[PASS] + (1 if is_last else 0))  # how many positions it will read, if it runs
        seen = min(seen, uint32(plan.cache_positions))
        context[CONTEXT_LAYER] = uint32(0) if is_last else uint32(cursor[LAYER] + 1)
        context[CONTEXT_NEXT] = context[CONTEXT_COUNT] = uint32(0)
        if unit < plan.units:
            _, part = head_and_part(plan, unit)
            context[CONTEXT_COUNT] = min(granules_of_part(plan, part, seen), uint32(2 * plan.attending))
    context[LAST_PRODUCT] = cursor[PRODUCT]
    if context[CONTEXT_NEXT] < context[CONTEXT_COUNT]:
        head, part = head_and_part(plan, unit)
        first = first_position(plan, part, context[CONTEXT_NEXT])
        at = granule_place(plan, context[CONTEXT_LAYER], head, first)
        prefetch(cache.keys, at, 2 * plan.granule_elements)
        prefetch(cache.values, at, 2 * plan.granule_elements)
        context[CONTEXT_NEXT] += uint32(1)
