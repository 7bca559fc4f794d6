"""The weight stream: every warp keeps a ring of tiles in flight from device memory to shared memory.

A token's weights are, for each block, one fixed sequence of tiles: qkv, o, gate_up and down of each layer, then lm_head
where a next token is wanted. Tile t of the sequence belongs to warp t % warps. A warp owns `depth` stages of shared
memory; as soon as it has multiplied a tile it starts the copy of the tile that takes the same stage, which may lie
several phases, or a token, ahead. So the stream never waits for activations, and a stage has one owner: its reader is
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
    grid_size,
    lane_index,
    pause,
    sync_warp,
    warp_index,
)

Stream = namedtuple("Stream", "state ring landed weights first_wanted")
Stream.__doc__ = """A warp's end of the stream.

state: int64[5], each thread's own (lane 0 alone keeps the fetching part up to date). ring: uint16 in shared memory, the
block's stages. landed: uint64 mbarriers in shared memory, one a stage. weights: uint16 bf16 in device memory.
first_wanted: the number of the first pass that wants a next token and so reads lm_head.
"""
USED, TILE, FETCHED, FETCH_TILE, FETCH_TOKEN = range(5)  # the state: tiles multiplied, the next tile, and what is fetched


@function
def token_tiles(plan, token, first_wanted):
    """Tiles of a block for pass number `token`; passes before `first_wanted` need no lm_head."""
    return plan.layers * plan.layer_tiles + (plan.lm_head_tiles if token >= first_wanted else 0)


@function
def tile_source(plan, tile):
    """Where the block's tile number `tile` of a token starts, in elements of the weights, and its columns."""
    layer = tile // plan.layer_tiles
    within = tile - layer * plan.layer_tiles
    if layer >= plan.layers:
        number, start, columns = tile - plan.layers * plan.layer_tiles, plan.lm_head_start, plan.lm_head_columns
    else:
        start = layer * plan.layer_elements
        if within < plan.qkv_tiles:
            number, columns = within, plan.qkv_columns
        elif within < plan.o_first + plan.o_tiles:
            number, start, columns = within - plan.o_first, start + plan.o_start, plan.o_columns
        elif within < plan.gate_up_first + plan.gate_up_tiles:
            number, start = within - plan.gate_up_first, start + plan.gate_up_start
            columns = plan.gate_up_columns
        else:
            number, start, columns = within - plan.down_first, start + plan.down_start, plan.down_columns
    return start + (number * grid_size() + block_index()) * 2 * columns, columns


@function
def fetch(plan, stream):
    """Lane 0: starts the copy of the warp's next tile into its next stage."""
    stage = warp_index() + plan.warps * (stream.state[FETCHED] % plan.depth)
    start, columns = tile_source(plan, stream.state[FETCH_TILE])
    barrier_expect(stream.landed, stage, 4 * columns)
    bulk_load(
        stream.ring, stage * plan.stage_elements, stream.weights, start, 4 * columns, stream.landed, stage
    )
    stream.state[FETCHED] += 1
    stream.state[FETCH_TILE] += plan.warps
    tiles = token_tiles(plan, stream.state[FETCH_TOKEN], stream.first_wanted)
    while stream.state[FETCH_TILE] >= tiles:
        stream.state[FETCH_TILE] -= tiles
        stream.state[FETCH_TOKEN] += 1
        tiles = token_tiles(plan, stream.state[FETCH_TOKEN], stream.first_wanted)


@function
def open_stream(plan, stream):
    """Prepares the warp's stages and fills them (warp). Follow it with `sync_block` before the first tile."""
    stream.state[USED] = 0
    stream.state[TILE] = warp_index()
    stream.state[FETCHED] = 0
    stream.state[FETCH_TILE] = warp_index()
    stream.state[FETCH_TOKEN] = 0
    if lane_index() == 0:
        tiles = token_tiles(plan, 0, stream.first_wanted)
        while stream.state[FETCH_TILE] >= tiles:  # a model with fewer tiles than warps
            stream.state[FETCH_TILE] -= tiles
            stream.state[FETCH_TOKEN] += 1
            tiles = token_tiles(plan, stream.state[FETCH_TOKEN], stream.first_wanted)
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
    stage = warp_index() + plan.warps * (stream.state[USED] % plan.depth)
    parity = (stream.state[USED] // plan.depth) & 1
    while not barrier_test(stream.landed, stage, parity):
        pause()
    return stage * plan.stage_elements


@function
def release_tile(plan, stream):
    """All lanes have read the tile: its stage takes the next one (warp)."""
    barrier_fence()
    sync_warp()
    if lane_index() == 0:
        fetch(plan, stream)
    stream.state[USED] += 1
    stream.state[TILE] += plan.warps


@function
def end_token(stream, tiles):
    """The warp's next tile is counted from the next token on."""
    stream.state[TILE] -= tiles


@function
def close_stream(plan, stream):
    """Waits for the copies still under way: a block must not end before them (warp)."""
    for _ in range(plan.depth):
        wait_tile(plan, stream)
        stream.state[USED] += 1
