"""The weight stream: a warp of its own keeps tiles in flight from device memory to a ring in shared memory.

A token's weights are, for each block, one fixed sequence of tiles: qkv, o, gate_up and down of each layer, then lm_head
where a next token is wanted. The feeder (workers.py) fetches them in that order, as long as the ring has room: they may
lie several products, or a token, ahead of what the workers multiply. So the stream never waits for activations.

`plan.batch` tiles of a product stand together in memory (shmemtp/product.py) and come by one copy, into as many stages
of the ring; where a block's tiles of a product are no multiple of that, the last stages stay empty. Stage s of all that
were ever filled belongs to worker warp s % warps.

`plan.in_flight` batches are under way at a time: what the memory needs to deliver at its full rate (Little's law). More
of them would only queue up there, and what blocks tell each other would wait behind them: scripts/bench_stream.py.

Everything here is counted in 32 bits: it is done for each tile.
"""

from collections import namedtuple

from .backend import (
    barrier_arrive,
    barrier_end,
    barrier_expect,
    barrier_fence,
    barrier_init,
    barrier_test,
    barrier_wait,
    block_index,
    bulk_load,
    function,
    lane_index,
    pause,
    sync_block,
    sync_warp,
    thread_index,
    uint32,
    warp_index,
)

Stream = namedtuple("Stream", "state ring landed free closed weights first_wanted")
Stream.__doc__ = """A thread's end of the stream.

state: uint32[STATE_FIELDS], the thread's own. ring: uint16 in shared memory. landed, free: uint64 mbarriers in shared
memory, two for each batch of stages: its tiles can be read, it can take others. closed: uint64[1], an mbarrier: the
workers need no more. weights: uint16 bf16 in device memory. first_wanted: the number of the first pass that wants a
next token and so reads lm_head.
"""
# The state. A worker's: the stage of its warp's next tile, the parity of its landing, the tile's number in its product.
# The feeder's: the batch of stages that it fills next, the parity of its landing; its first tile's number, how many its
# product has, their size in UNITs, where the product begins in the weights in UNITs, the product (QKV to LM_HEAD), its
# layer and pass; the oldest batch under way, and its parity.
STAGE, PARITY, TILE = range(3)
BATCH, _, FETCH_TILE, FETCH_TILES, FETCH_SIZE, FETCH_START, FETCH_PRODUCT, FETCH_LAYER, FETCH_PASS = range(9)
LANDING, LANDING_PARITY = 9, 10
STATE_FIELDS = 11
QKV, O_PROJ, GATE_UP, DOWN, LM_HEAD = range(5)
TILE_ROWS = 4  # this and the columns, of which a tile has a multiple, are shmemtp/product.py's too
UNIT = TILE_ROWS * 64  # elements


@function
def open_stream(plan, stream):
    """Prepares the ring (all threads of the block, the feeder's too)."""
    state = stream.state
    for field in range(STATE_FIELDS):
        state[field] = uint32(0)
    state[STAGE] = state[TILE] = uint32(warp_index())
    number = thread_index()
    while number < plan.stages // plan.batch:
        barrier_init(stream.landed, number)
        barrier_init(stream.free, number, plan.batch)
        number += plan.threads
    if thread_index() == 0:
        barrier_init(stream.closed, 0)
    barrier_fence()
    sync_block()


@function
def advance(state, place, parity, step, count):
    """`state[place]` of a ring of `count`, at parity `state[parity]`, goes `step` on, no more than the ring has."""
    state[place] += uint32(step)
    if state[place] >= count:
        state[place] -= uint32(count)
        state[parity] ^= uint32(1)


@function
def select(plan, product, qkv, o, gate_up, down, lm_head):
    """The value for a product's number (thread)."""
    if product < GATE_UP:
        return qkv if product == QKV else o
    if product < LM_HEAD:
        return gate_up if product == GATE_UP else down
    return lm_head


@function
def own_tiles(plan, all_tiles, tiles):
    """How many of a matrix's tiles, `tiles` to each block in order, are this block's: the last ones may lack some."""
    if all_tiles == tiles * plan.grid:
        return tiles
    return max(0, min(tiles, all_tiles - tiles * block_index()))


@function
def tiles_of(plan, product):
    """Tiles of a product that this block reads. Of lm_head all have the same, padding included."""
    return select(
        *(plan, product),
        own_tiles(plan, plan.qkv_all_tiles, plan.qkv_tiles),
        own_tiles(plan, plan.o_all_tiles, plan.o_tiles),
        own_tiles(plan, plan.gate_up_all_tiles, plan.gate_up_tiles),
        own_tiles(plan, plan.down_all_tiles, plan.down_tiles),
        plan.lm_head_tiles,
    )


@function
def all_tiles_of(plan, product):
    """Tiles of a product that each block has room for in memory."""
    return select(plan, product, plan.qkv_tiles, plan.o_tiles, plan.gate_up_tiles, plan.down_tiles, plan.lm_head_tiles)


@function
def columns_of(plan, product):
    """Columns of a product's tiles."""
    return select(
        *(plan, product, plan.qkv_columns, plan.o_columns, plan.gate_up_columns, plan.down_columns),
        plan.lm_head_columns,
    )


@function
def find_tile(plan, stream):
    """Once a product's tiles are all fetched: finds the next one of which the block has some (thread)."""
    state = stream.state
    product = state[FETCH_PRODUCT]
    while state[FETCH_TILE] >= uint32(tiles_of(plan, product)):
        state[FETCH_TILE] = uint32(0)
        product = uint32(product + 1)
        if product == LM_HEAD:
            state[FETCH_LAYER] += uint32(1)
            wanted = state[FETCH_PASS] >= stream.first_wanted
            if state[FETCH_LAYER] < plan.layers or not wanted:
                product = uint32(0)
            if state[FETCH_LAYER] == plan.layers and not wanted:
                state[FETCH_LAYER] = uint32(0)
                state[FETCH_PASS] += uint32(1)
        elif product > LM_HEAD:
            product = state[FETCH_LAYER] = uint32(0)
            state[FETCH_PASS] += uint32(1)
    state[FETCH_PRODUCT] = product
    state[FETCH_TILES] = uint32(tiles_of(plan, product))
    state[FETCH_SIZE] = uint32(columns_of(plan, product) * TILE_ROWS // UNIT)
    start = select(plan, product, 0, plan.o_start // UNIT, plan.gate_up_start // UNIT, plan.down_start // UNIT, 0)
    state[FETCH_START] = uint32(state[FETCH_LAYER] * (plan.layer_elements // UNIT) + start)


@function
def feed(plan, stream):
    """Fetches tiles until the workers need no more; no copy is under way then (the feeder's warp)."""
    if lane_index() == 0:
        state = stream.state
        state[BATCH] = state[FETCH_TILE] = uint32(0)
        find_tile(plan, stream)
        for _ in range(plan.in_flight):
            fetch_batch(plan, stream)
        needed = True
        while needed:
            if barrier_test(stream.free, state[BATCH], state[PARITY] ^ uint32(1)):
                await_landing(plan, stream)
                fetch_batch(plan, stream)
            else:
                needed = not barrier_test(stream.closed, 0, 0)
                pause(0)
        for _ in range(plan.in_flight):
            await_landing(plan, stream)
    sync_warp()


@function
def await_landing(plan, stream):
    """Waits for the oldest batch under way (thread)."""
    barrier_wait(stream.landed, stream.state[LANDING], stream.state[LANDING_PARITY])
    advance(stream.state, LANDING, LANDING_PARITY, 1, plan.stages // plan.batch)


@function
def fetch_batch(plan, stream):
    """Starts the copy of the next batch of tiles into the ring's next stages (thread)."""
    state = stream.state
    tile, size, batch = state[FETCH_TILE], state[FETCH_SIZE], state[BATCH]
    stored = min(uint32(plan.batch), uint32(all_tiles_of(plan, state[FETCH_PRODUCT]) - tile))
    some = min(uint32(plan.batch), uint32(state[FETCH_TILES] - tile))  # the last block's own may be fewer
    at = uint32(state[FETCH_START] + (tile * plan.grid + block_index() * stored) * size)
    nbytes = uint32(some * size * (2 * UNIT))
    barrier_expect(stream.landed, batch, nbytes)
    bulk_load(
        stream.ring, batch * (plan.batch * plan.stage_elements), stream.weights, at * UNIT, nbytes, stream.landed, batch
    )
    advance(state, BATCH, PARITY, 1, plan.stages // plan.batch)
    state[FETCH_TILE] = uint32(tile + plan.batch)
    if state[FETCH_TILE] >= state[FETCH_TILES]:
        find_tile(plan, stream)


@function
def batch_of(plan, stage):
    return uint32(stage // uint32(plan.batch))


@function
def stages_of(plan, product):
    """How many stages a block's tiles of a product take: whole batches (thread)."""
    return uint32(uint32(tiles_of(plan, product) + (plan.batch - 1)) // uint32(plan.batch) * uint32(plan.batch))


@function
def wait_tile(plan, stream, columns):
    """Waits for the warp's next tile, of so many columns; returns where it starts in the ring (worker's warp).

    The copy engine depends on no other PE or block: this is the one wait without a limit.
    """
    stage = stream.state[STAGE]
    batch = batch_of(plan, stage)
    # What lay there before must have landed too, or the wait for this landing would take it for that one: a ring of
    # few stages has come round to a batch when another one, fetched later, has landed. Only then is it released.
    barrier_wait(stream.free, batch, stream.state[PARITY] ^ uint32(1))
    barrier_wait(stream.landed, batch, stream.state[PARITY])
    number = uint32(stage - batch * plan.batch)
    return uint32(batch * (plan.batch * plan.stage_elements) + number * columns * TILE_ROWS)


@function
def release_tile(plan, stream):
    """All lanes have read the tile, and used what they read: its stage is free (worker's warp)."""
    sync_warp()
    if lane_index() == 0:
        barrier_arrive(stream.free, batch_of(plan, stream.state[STAGE]))
    advance(stream.state, STAGE, PARITY, plan.warps, plan.stages)
    stream.state[TILE] += uint32(plan.warps)


@function
def close_stream(plan, stream):
    """The workers need no more tiles (worker)."""
    if thread_index() == 0:
        barrier_arrive(stream.closed, 0)


@function
def end_stream(plan, stream):
    """After `feed` and `close_stream`: the ring may become other memory (all threads of the block)."""
    sync_block()
    number = thread_index()
    while number < plan.stages // plan.batch:
        barrier_end(stream.landed, number)
        barrier_end(stream.free, number)
        number += plan.threads
    if thread_index() == 0:
        barrier_end(stream.closed, 0)
    sync_block()
