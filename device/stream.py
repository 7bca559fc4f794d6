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

state: int64[7], each thread's own (lane 0 alone keeps the fetching part up to date). ring: uint16 in shared memory, the
block's stages. landed: uint64 mbarriers in shared memory, one a stage. weights: uint16 bf16 in device memory.
first_wanted: the number of the first pass that wants a next token and so reads lm_head.
"""
# The state: the stage of the warp's next tile, the parity of its landing and the tile's number in its layer; the same
# for the next tile to fetch, with its layer (plan.layers stands for lm_head) and pass.
STAGE, PARITY, TILE, FETCH_STAGE, FETCH_TILE, FETCH_LAYER, FETCH_PASS = range(7)


@function
def tiles_of(plan, layer):
    return plan.layer_tiles if layer < plan.layers else plan.lm_head_tiles


@function
def tile_source(plan, layer, tile):
    """Where the block's tile number `tile` of a layer starts, in elements of the weights, and its columns."""
    start = layer * plan.layer_elements
    if layer == plan.layers:
        columns = plan.lm_head_columns
    elif tile < plan.o_first:
        columns = plan.qkv_columns
    elif tile < plan.gate_up_first:
        tile, start, columns = tile - plan.o_first, start + plan.o_start, plan.o_columns
    elif tile < plan.down_first:
        tile, start, columns = tile - plan.gate_up_first, start + plan.gate_up_start, plan.gate_up_columns
    else:
        tile, start, columns = tile - plan.down_first, start + plan.down_start, plan.down_columns
    return start + (tile * plan.grid + block_index()) * 2 * columns, columns


@function
def skip_to_tile(plan, stream):
    """Lane 0: carries FETCH_TILE over into the layers, and passes, in which that tile lies."""
    while stream.state[FETCH_TILE] >= tiles_of(plan, stream.state[FETCH_LAYER]):
        stream.state[FETCH_TILE] -= tiles_of(plan, stream.state[FETCH_LAYER])
        stream.state[FETCH_LAYER] += 1
        unwanted = stream.state[FETCH_PASS] < stream.first_wanted
        if stream.state[FETCH_LAYER] + (1 if unwanted else 0) > plan.layers:
            stream.state[FETCH_LAYER] = 0
            stream.state[FETCH_PASS] += 1


@function
def fetch(plan, stream):
    """Lane 0: starts the copy of the warp's next tile into its next stage."""
    stage = warp_index() + plan.warps * stream.state[FETCH_STAGE]
    start, columns = tile_source(plan, stream.state[FETCH_LAYER], stream.state[FETCH_TILE])
    barrier_expect(stream.landed, stage, 4 * columns)
    bulk_load(stream.ring, stage * plan.stage_elements, stream.weights, start, 4 * columns, stream.landed, stage)
    stream.state[FETCH_STAGE] += 1
    if stream.state[FETCH_STAGE] == plan.depth:
        stream.state[FETCH_STAGE] = 0
    stream.state[FETCH_TILE] += plan.warps
    skip_to_tile(plan, stream)


@function
def open_stream(plan, stream):
    """Prepares the warp's stages and fills them (warp)."""
    for field in range(7):
        stream.state[field] = 0
    stream.state[TILE] = warp_index()
    stream.state[FETCH_TILE] = warp_index()
    if lane_index() == 0:
        skip_to_tile(plan, stream)  # a layer may have fewer tiles than the block warps
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
    """All lanes have read the tile: its stage takes the next one (warp)."""
    barrier_fence()
    sync_warp()
    if lane_index() == 0:
        fetch(plan, stream)
    next_stage(plan, stream)
    stream.state[TILE] += plan.warps


@function
def end_layer(plan, stream, layer):
    """The warp's next tile is counted from the next layer on (thread)."""
    stream.state[TILE] -= tiles_of(plan, layer)


@function
def close_stream(plan, stream):
    """Waits for the copies still under way: a block must not end before them (warp)."""
    for _ in range(plan.depth):
        wait_tile(plan, stream)
        next_stage(plan, stream)
