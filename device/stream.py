"""The weight stream: every warp keeps a ring of tiles in flight from device memory to shared memory.

A token's weights are, for each block, one fixed sequence of tiles: qkv, o, gate_up and down of each layer, then lm_head
where a next token is wanted. Tile t of the sequence belongs to warp t % warps. A warp owns `depth` stages of shared
memory; as soon as it has multiplied a tile it starts the copy of the tile that takes the same stage, which may lie
several products, or a token, ahead. So the stream never waits for activations, and a stage has one owner: its reader is
its writer, and no other warp's progress can be mistaken for its own.

A tile is two rows by `columns` of bf16. In memory it stands at ((its number in its matrix) * grid + block) tiles, so
that blocks that run side by side read side by side.
"""

from collections import namedtuple

from .backend import (
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
    warp_index,
)

Stream = namedtuple("Stream", "state ring landed weights first_wanted")
Stream.__doc__ = """A warp's end of the stream.

state: int64[9], each thread's own (lane 0 alone keeps the fetching part up to date). ring: uint16 in shared memory, the
block's stages. landed: uint64 mbarriers in shared memory, one a stage. weights: uint16 bf16 in device memory.
first_wanted: the number of the first pass that wants a next token and so reads lm_head.
"""
# The state: the stage of the warp's next tile, the parity of its landing and the tile's number in its product; the same
# for the next tile to fetch, with its product (0 to 3 in a layer, LM_HEAD), layer, pass and place in the weights.
STAGE, PARITY, TILE, FETCH_STAGE, FETCH_TILE, FETCH_PRODUCT, FETCH_LAYER, FETCH_PASS, FETCH_AT = range(9)
STATE_FIELDS = 9
LM_HEAD = 4


@function
def select(plan, product, qkv, o, gate_up, down, lm_head):
    """The value for a product's number (thread)."""
    if product < 2:
        return qkv if product == 0 else o
    if product < LM_HEAD:
        return gate_up if product == 2 else down
    return lm_head


@function
def tiles_of(plan, product):
    """Tiles of a product in each block."""
    return select(
        *(plan, product, plan.qkv_tiles, plan.o_tiles, plan.gate_up_tiles, plan.down_tiles, plan.lm_head_tiles)
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
    product, layer = stream.state[FETCH_PRODUCT], stream.state[FETCH_LAYER]
    while stream.state[FETCH_TILE] >= tiles_of(plan, product):
        stream.state[FETCH_TILE] -= tiles_of(plan, product)
        product += 1
        if product == LM_HEAD:
            layer += 1
            wanted = stream.state[FETCH_PASS] >= stream.first_wanted
            if layer < plan.layers or not wanted:
                product = 0
            if layer == plan.layers and not wanted:
                layer = 0
                stream.state[FETCH_PASS] += 1
        elif product > LM_HEAD:
            product = layer = 0
            stream.state[FETCH_PASS] += 1
    stream.state[FETCH_PRODUCT], stream.state[FETCH_LAYER] = product, layer
    start = select(plan, product, 0, plan.o_start, plan.gate_up_start, plan.down_start, 0)
    tile = stream.state[FETCH_TILE] * plan.grid + block_index()
    stream.state[FETCH_AT] = layer * plan.layer_elements + start + tile * 2 * columns_of(plan, product)


@function
def fetch(plan, stream):
    """Lane 0: starts the copy of the warp's next tile into its next stage."""
    columns = columns_of(plan, stream.state[FETCH_PRODUCT])
    stage = warp_index() + plan.warps * stream.state[FETCH_STAGE]
    at = stream.state[FETCH_AT]
    barrier_expect(stream.landed, stage, 4 * columns)
    bulk_load(stream.ring, stage * plan.stage_elements, stream.weights, at, 4 * columns, stream.landed, stage)
    stream.state[FETCH_STAGE] = 0 if stream.state[FETCH_STAGE] == plan.depth - 1 else stream.state[FETCH_STAGE] + 1
    stream.state[FETCH_TILE] += plan.warps
    stream.state[FETCH_AT] = at + plan.warps * plan.grid * 2 * columns
    if stream.state[FETCH_TILE] >= tiles_of(plan, stream.state[FETCH_PRODUCT]):
        find_tile(plan, stream)


@function
def open_stream(plan, stream):
    """Prepares the warp's stages and fills them (warp)."""
    for field in range(STATE_FIELDS):
        stream.state[field] = 0
    stream.state[TILE] = warp_index()
    stream.state[FETCH_TILE] = warp_index()
    if lane_index() == 0:
        find_tile(plan, stream)
        for d in range(plan.depth):
            barrier_init(stream.landed, warp_index() + plan.warps * d)
        barrier_fence()
        for _ in range(plan.depth):
            fetch(plan, stream)
    sync_warp()


@function
def wait_tile(plan, stream):
    """Waits for the warp's next tile (warp); returns where it starts in the ring, in elements.

    The copy engine depends on no other PE or block: this is the one wait without a limit.
    """
    stage = warp_index() + plan.warps * stream.state[STAGE]
    while not barrier_test(stream.landed, stage, stream.state[PARITY]):
        pause()
    return stage * plan.stage_elements


@function
def next_stage(plan, stream):
    stream.state[STAGE] += 1
    if stream.state[STAGE] == plan.depth:
        stream.state[STAGE] = 0
        stream.state[PARITY] ^= 1


@function
def release_tile(plan, stream):
    """All lanes have read the tile, and used what they read: its stage takes the next one (warp)."""
    sync_warp()
    if lane_index() == 0:
        fetch(plan, stream)
    next_stage(plan, stream)
    stream.state[TILE] += plan.warps


@function
def close_stream(plan, stream):
    """Waits for the copies still under way: a block must not end before them (warp)."""
    for _ in range(plan.depth):
        wait_tile(plan, stream)
        next_stage(plan, stream)
