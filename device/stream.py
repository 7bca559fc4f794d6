"""The weight stream: every warp keeps a ring of tiles in flight from device memory to shared memory.

A token's weights are, for each block, one fixed sequence of tiles: qkv, o, gate_up and down of each layer, then lm_head
where a next token is wanted. Tile t of the sequence belongs to warp t % warps. A warp owns `depth` stages of shared
memory; as soon as it has multiplied a tile it starts the copy of the tile that takes the same stage, which may lie
several products, or a token, ahead. So the stream never waits for activations, and a stage has one owner: its reader is
its writer, and no other warp's progress can be mistaken for its own.

A tile is four rows by `columns` of bf16. In memory it stands at ((its number in its matrix) * grid + block) tiles, so
that blocks that run side by side read side by side. Everything here is counted in 32 bits: it is done for each tile.
"""

from collections import namedtuple

from .backend import (
    barrier_end,
    barrier_expect,
    barrier_fence,
    barrier_init,
    barrier_test,
    block_index,
    bulk_load,
    function,
    lane_index,
    pause,
    sync_warp,
    uint32,
    warp_index,
)

Stream = namedtuple("Stream", "state ring landed weights first_wanted")
Stream.__doc__ = """A warp's end of the stream.

state: uint32[STATE_FIELDS], each thread's own (lane 0 alone keeps the fetching part up to date). ring: uint16 in shared
memory, the block's stages. landed: uint64 mbarriers in shared memory, one a stage. weights: uint16 bf16 in device
memory. first_wanted: the number of the first pass that wants a next token and so reads lm_head.
"""
# The state: the stage of the warp's next tile, the parity of its landing and the tile's number in its product; of the
# next tile to fetch its number, how many its product has, its size and place in the weights in UNITs, its product (QKV
# to LM_HEAD), layer and pass. The tile to fetch takes the stage of the one that was read last.
STAGE, PARITY, TILE, FETCH_TILE, FETCH_TILES, FETCH_SIZE, FETCH_AT, FETCH_PRODUCT, FETCH_LAYER, FETCH_PASS = range(10)
STATE_FIELDS = 10
QKV, O_PROJ, GATE_UP, DOWN, LM_HEAD = range(5)
TILE_ROWS = 4  # this and the columns, of which a tile has a multiple, are shmemtp/product.py's too
UNIT = TILE_ROWS * 64  # elements


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
def columns_of(plan, product):
    """Columns of a product's tiles."""
    return select(
        *(plan, product, plan.qkv_columns, plan.o_columns, plan.gate_up_columns, plan.down_columns),
        plan.lm_head_columns,
    )


@function
def find_tile(plan, stream):
    """Lane 0: carries FETCH_TILE over into the product, layer and pass in which that tile lies."""
    state = stream.state
    product = state[FETCH_PRODUCT]
    while state[FETCH_TILE] >= uint32(tiles_of(plan, product)):
        state[FETCH_TILE] -= uint32(tiles_of(plan, product))
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
    tile = state[FETCH_TILE] * plan.grid + block_index()
    layer = state[FETCH_LAYER] * (plan.layer_elements // UNIT)
    state[FETCH_AT] = uint32(layer + start + tile * state[FETCH_SIZE])


@function
def fetch(plan, stream):
    """Lane 0: starts the copy of the warp's next tile into the stage that it is at."""
    state = stream.state
    stage = uint32(warp_index() + plan.warps * state[STAGE])
    size, at = state[FETCH_SIZE], state[FETCH_AT]
    nbytes = uint32(size * (2 * UNIT))
    barrier_expect(stream.landed, stage, nbytes)
    bulk_load(stream.ring, stage * plan.stage_elements, stream.weights, at * UNIT, nbytes, stream.landed, stage)
    state[FETCH_TILE] += uint32(plan.warps)
    state[FETCH_AT] = uint32(at + size * (plan.warps * plan.grid))
    if state[FETCH_TILE] >= state[FETCH_TILES]:
        find_tile(plan, stream)


@function
def open_stream(plan, stream):
    """Prepares the warp's stages and fills them (warp)."""
    for field in range(STATE_FIELDS):
        stream.state[field] = uint32(0)
    stream.state[TILE] = uint32(warp_index())
    stream.state[FETCH_TILE] = uint32(warp_index())
    if lane_index() == 0:
        find_tile(plan, stream)
        for d in range(plan.depth):
            barrier_init(stream.landed, warp_index() + plan.warps * d)
        barrier_fence()
        for d in range(plan.depth):
            stream.state[STAGE] = uint32(d)
            fetch(plan, stream)
        stream.state[STAGE] = uint32(0)
    sync_warp()


@function
def wait_tile(plan, stream):
    """Waits for the warp's next tile (warp); returns where it starts in the ring, in elements.

    The copy engine depends on no other PE or block: this is the one wait without a limit.
    """
    stage = uint32(warp_index() + plan.warps * stream.state[STAGE])
    while not barrier_test(stream.landed, stage, stream.state[PARITY]):
        pause()
    return stage * plan.stage_elements


@function
def next_stage(plan, stream):
    stream.state[STAGE] += uint32(1)
    if stream.state[STAGE] == plan.depth:
        stream.state[STAGE] = uint32(0)
        stream.state[PARITY] ^= uint32(1)


@function
def release_tile(plan, stream):
    """All lanes have read the tile, and used what they read: its stage takes the next one (warp)."""
    sync_warp()
    if lane_index() == 0:
        fetch(plan, stream)
    next_stage(plan, stream)
    stream.state[TILE] += uint32(plan.warps)


@function
def close_stream(plan, stream):
    """Waits for the copies still under way, and gives up the stages: they may become other memory (warp)."""
    for _ in range(plan.depth):
        wait_tile(plan, stream)
        next_stage(plan, stream)
    sync_warp()
    if lane_index() == 0:
        for d in range(plan.depth):
            barrier_end(stream.landed, warp_index() + plan.warps * d)
