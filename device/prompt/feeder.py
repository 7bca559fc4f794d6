"""A prompt's feeder: one thread that fetches stages of weights ahead of the workers, and chunks of inputs in time.

While a product's inputs are not there yet, its weights come until the ring is full, `plan.in_flight` stages at a time,
as in ../feeder.py. The L2 is not asked for more: it gained nothing here (scripts/README.md).
"""

from collections import namedtuple

from ..backend import (
    barrier_expect,
    barrier_test,
    barrier_wait,
    bulk_load,
    function,
    int64,
    lane_index,
    local,
    pause,
    sync_warp,
    uint32,
)
from ..sequence import LM_HEAD, QKV, columns_of, select
from .sequence import (
    CURSOR_FIELDS,
    first_tile,
    go_to_next_stage,
    open_cursor,
    run_of,
    splits_of,
    stages_of,
    tile_bytes,
    tiles_at,
)
from .stream import (
    CHUNK,
    CHUNK_PARITY,
    CHUNKS,
    STAGE,
    STAGE_PARITY,
    STATE_FIELDS,
    chunk_size,
    go_on,
)

# Behind a stream's state: the stage that lands next and the parity of its landing; how many stages are under way; the
# parity of `opened`; how many chunks were fetched, 2 at most.
LANDING, LANDING_PARITY, UNDER_WAY, OPENED, CHUNKS_FETCHED = range(STATE_FIELDS, STATE_FIELDS + 5)
FEEDER_FIELDS = STATE_FIELDS + 5

Feeder = namedtuple("Feeder", "stream state cursor weights x")
Feeder.__doc__ = """stream: what it fills. state: uint32 [FEEDER_FIELDS]. cursor: the stage that is fetched next.
weights: uint16 bf16. x: uint32 bf16 pairs, the tokens' inputs (`plan.x_qkv` and on)."""


@function
def feed(plan, stream, weights, x, prompt_count):
    """Fetches until the workers need no more; no copy is under way then (the feeder's warp)."""
    if lane_index() == 0:
        feeder = Feeder(stream, local(FEEDER_FIELDS, uint32), local(CURSOR_FIELDS, uint32), weights, x)
        for field in range(FEEDER_FIELDS):
            feeder.state[field] = uint32(0)
        open_cursor(plan, feeder.cursor)
        fed, needed = int64(0), True
        while needed and prompt_count - 1 - fed > 1:
            count = min(plan.tokens, prompt_count - 1 - fed)
            for _ in range(plan.layers):
                for product in range(QKV, LM_HEAD):
                    if needed:
                        needed = feed_product(plan, feeder, product, count)
            fed += count
        drain(plan, feeder)
    sync_warp()


@function
def feed_product(plan, feeder, product, count):
    """One product's stages and chunks; False if the workers need no more (thread)."""
    stream, state = feeder.stream, feeder.state
    each, splits = stages_of(plan, product), splits_of(plan, product)
    stages, number, chunk, is_open, needed = each * splits, uint32(0), uint32(0), False, True
    while needed and each > 0 and (number < stages or chunk < splits):
        # Stage n's place is free when stage n - plan.stages has been read, chunk c's when chunk c - 2 has, whose last
        # stage is (c - 1) * each - 1: a chunk comes before the first stage that may have to wait as long as it.
        if chunk < splits and (number == stages or number + 1 >= plan.stages + max(1, (int64(chunk) - 1) * each)):
            if not is_open:
                needed = wait_for(stream, stream.opened, 0, state[OPENED])
                state[OPENED] ^= uint32(1)
                is_open = True
            needed = needed and wait_for(stream, stream.chunk_free, state[CHUNK], state[CHUNK_PARITY] ^ uint32(1))
            if needed:
                fetch_chunk(plan, feeder, product, chunk, count)
            chunk = uint32(chunk + 1)
        else:
            needed = wait_for(stream, stream.free, state[STAGE], state[STAGE_PARITY] ^ uint32(1))
            if needed:
                fetch_stage(plan, feeder)
            number = uint32(number + 1)
    return needed


@function
def wait_for(stream, barriers, i, parity):
    """Waits for a phase of an mbarrier; False if the workers need no more instead (thread)."""
    polls, closed = 0, False
    while not barrier_test(barriers, i, parity) and not closed:
        closed = barrier_test(stream.closed, 0, 0)
        polls += 1
        pause(0, polls)
    return not closed


@function
def fetch_stage(plan, feeder):
    """Starts the copies of the next stage, once there are fewer than `plan.in_flight` others (thread)."""
    stream, state = feeder.stream, feeder.state
    if state[UNDER_WAY] == plan.in_flight:
        await_landing(plan, feeder)
    place, tiles, nbytes = state[STAGE], tiles_at(feeder.cursor), tile_bytes(feeder.cursor)
    barrier_expect(stream.landed, place, tiles * nbytes)
    number = uint32(0)
    while number < tiles:
        at, together = run_of(plan, feeder.cursor, uint32(first_tile(feeder.cursor) + number))
        some, to = min(together, uint32(tiles - number)), uint32(place * plan.stage_elements + number * (nbytes // 2))
        bulk_load(stream.tiles, to, feeder.weights, at, uint32(some * nbytes), stream.landed, place)
        number = uint32(number + some)
    go_to_next_stage(plan, feeder.cursor)
    go_on(state, STAGE, STAGE_PARITY, plan.stages)
    state[UNDER_WAY] += uint32(1)


@function
def await_landing(plan, feeder):
    """Waits for the oldest stage under way (thread)."""
    state = feeder.state
    barrier_wait(feeder.stream.landed, state[LANDING], state[LANDING_PARITY])
    go_on(state, LANDING, LANDING_PARITY, plan.stages)
    state[UNDER_WAY] -= uint32(1)


@function
def fetch_chunk(plan, feeder, product, split, count):
    """Starts the copy of a split's columns of `count` tokens, and of some that share their rows (thread)."""
    stream, state = feeder.stream, feeder.state
    place, columns = state[CHUNK], columns_of(plan, product)
    start = select(plan, product, plan.x_qkv, plan.x_o, plan.x_gate_up, plan.x_down, 0)
    at, nbytes = start + split * (chunk_size(columns, plan.tokens) // 2), uint32(2 * chunk_size(columns, count))
    barrier_expect(stream.chunk_landed, place, nbytes)
    bulk_load(stream.chunks, place * plan.chunk_elements, feeder.x, at, nbytes, stream.chunk_landed, place, once=False)
    go_on(state, CHUNK, CHUNK_PARITY, CHUNKS)
    state[CHUNKS_FETCHED] = min(uint32(CHUNKS), uint32(state[CHUNKS_FETCHED] + uint32(1)))


@function
def drain(plan, feeder):
    """Waits for every copy that was started (thread)."""
    state = feeder.state
    while state[UNDER_WAY] > 0:
        await_landing(plan, feeder)
    for _ in range(state[CHUNKS_FETCHED]):
        if state[CHUNK] == 0:
            state[CHUNK] = uint32(CHUNKS)
            state[CHUNK_PARITY] ^= uint32(1)
        state[CHUNK] -= uint32(1)
        barrier_wait(feeder.stream.chunk_landed, state[CHUNK], state[CHUNK_PARITY])
