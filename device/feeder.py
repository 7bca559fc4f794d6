"""The feeder: one thread that keeps the weight stream's ring full, and asks the L2 for what comes next while it is.

`plan.in_flight` batches are under way at a time: what the memory needs to deliver at its full rate (Little's law), or
one less where waiting for each other takes blocks longer. More of them would only queue up there, and what blocks tell
each other would wait behind them: scripts/bench_stream.py.

While the workers wait for each other and the ring is full, the memory would stand still. So up to `plan.ahead` batches
behind the ring's are brought into the L2, one every `plan.ahead_cycles`: a little slower than the memory of an H200
delivers.
"""

from .backend import (
    barrier_arrive,
    barrier_expect,
    barrier_test,
    barrier_wait,
    bulk_fence,
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
from .sequence import (
    CONTEXT,
    CURSOR_FIELDS,
    FIRST,
    PRODUCT,
    Passes,
    copy_cursor,
    next_batch,
    next_page,
    open_cursor,
)
from .stream import advance

# Places in the ring, in batches of stages: the one that is filled next and the one that lands next, with the parities
# of their landing.
FILLED, FILLED_PARITY, LANDING, LANDING_PARITY = range(4)
PLACES = 4


@function
def feed(plan, stream, weights, cache, first_wanted, position):
    """Fetches tiles and pages until the workers need no more; no copy is under way then (the feeder's warp).

    weights: uint16 bf16 in device memory. cache: see cache.py. first_wanted, position: see sequence.Passes.
    """
    passes = Passes(first_wanted, position)
    if lane_index() == 0:
        places, cursor, far = local(PLACES, uint32), local(CURSOR_FIELDS, uint32), local(CURSOR_FIELDS, uint32)
        for place in range(PLACES):
            places[place] = uint32(0)
        open_cursor(plan, cursor, passes)
        for _ in range(plan.in_flight):
            _fetch(plan, stream, weights, cache, places, cursor, passes)
        needed, lead, since = True, 0, cycles()  # lead: how many batches `far` is ahead of `cursor`
        idle = 0  # looks at a full ring
        while needed:
            if barrier_test(stream.free, places[FILLED], places[FILLED_PARITY] ^ uint32(1)):
                _await_landing(plan, stream, places)
                _fetch(plan, stream, weights, cache, places, cursor, passes)
                lead, since, idle = max(lead - 1, 0), cycles(), 0
            elif lead < plan.ahead and cycles() - since >= plan.ahead_cycles:
                if lead == 0:
                    copy_cursor(cursor, far)
                _ask(plan, weights, cache, far, passes)
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
def _fetch(plan, stream, weights, cache, places, cursor, passes):
    """Starts the copies of the next batch into the ring's next stages (thread)."""
    batch = places[FILLED]
    to = batch * (plan.batch * plan.stage_elements)
    if cursor[PRODUCT] == CONTEXT:
        _fetch_page(plan, stream, cache, cursor, passes, batch, to)
    else:
        at, nbytes = next_batch(plan, cursor, passes)
        barrier_expect(stream.landed, batch, nbytes)
        bulk_load(stream.ring, to, weights, at, nbytes, stream.landed, batch)
    advance(places, FILLED, FILLED_PARITY, 1, plan.stages // plan.batch)


@function
def _fetch_page(plan, stream, cache, cursor, passes, batch, to):
    """A page's keys, then its values; only a place for what the workers have not stored yet (thread)."""
    if cursor[FIRST] == 0:
        bulk_fence()  # the workers have stored the round's settled pages, tokens ago
    at, settled = next_page(plan, cursor, passes)
    if settled:
        nbytes = 2 * plan.page_elements
        barrier_expect(stream.landed, batch, 2 * nbytes)
        bulk_load(stream.ring, to, cache.keys, at, nbytes, stream.landed, batch, once=False)
        bulk_load(stream.ring, to + plan.page_elements, cache.values, at, nbytes, stream.landed, batch, once=False)
    else:
        _ask_for_page(plan, cache, at)
        barrier_arrive(stream.landed, batch)


@function
def _ask(plan, weights, cache, cursor, passes):
    """Has the next batch come to the L2 (thread)."""
    if cursor[PRODUCT] == CONTEXT:
        at, _ = next_page(plan, cursor, passes)
        _ask_for_page(plan, cache, at)
    else:
        at, nbytes = next_batch(plan, cursor, passes)
        prefetch(weights, at, nbytes)


@function
def _ask_for_page(plan, cache, at):
    prefetch(cache.keys, at, 2 * plan.page_elements)
    prefetch(cache.values, at, 2 * plan.page_elements)
