"""What a prompt's products read: stages of weights and chunks of the tokens' inputs, in shared memory.

A product goes over its columns split by split. A split's chunk, those columns of all tokens, lies in one of CHUNKS
places, and the block's rows of the split come stage after stage (sequence.py), in one of `plan.stages` places. All
workers go through all stages and chunks in the same order, so that a place's mbarriers, `landed` and `free`, are never
more than one phase ahead of anyone.

Tokens share rows of a chunk by twos, as `multiply_tiles` takes them; rows stand further apart than they must, so that
two of them, which are read at once, lie in other banks.
"""

from collections import namedtuple

from ..backend import (
    barrier_arrive,
    barrier_end,
    barrier_fence,
    barrier_init,
    barrier_wait,
    function,
    lane_index,
    shared,
    sync_block,
    sync_warp,
    thread_index,
    uint16,
    uint32,
    uint64,
)
from ..sequence import LM_HEAD

CHUNKS = 2
SHARED_BY = 16  # tokens, by eight rows of a chunk
ROW_PADDING = 8  # elements behind a chunk's row
NONE = LM_HEAD  # no product: a prompt's passes have none of its rows
Stream = namedtuple("Stream", "state tiles landed free chunks chunk_landed chunk_free opened closed")
Stream.__doc__ = """state: uint32 [STATE_FIELDS], the thread's own. tiles: uint16 bf16 [stages, GROUP, TILE_ROWS,
columns]; chunks: uint16 bf16 [CHUNKS, tokens / 2, 2 * columns + ROW_PADDING]. The others are uint64 mbarriers in shared
memory: two for each place, `opened` (the inputs of the next product of which the block has rows are in device memory),
`closed` (the workers need no more)."""
STAGE, STAGE_PARITY, CHUNK, CHUNK_PARITY = range(4)
STATE_FIELDS = 4


@function
def row_stride(columns):
    """Elements from a row of a chunk to the next one, in shared and in device memory."""
    return uint32(2 * columns + ROW_PADDING)


@function
def chunk_size(columns, tokens):
    """Elements of a chunk of so many tokens, whole groups of SHARED_BY."""
    return uint32((tokens + (SHARED_BY - 1)) // SHARED_BY * (SHARED_BY // 2) * row_stride(columns))


@function
def input_word(plan, columns, token, word):
    """Where a token's columns 2 * word and 2 * word + 1 stand in a product's inputs, uint32 chunk after chunk (thread).

    columns: of a split.
    """
    split = uint32(uint32(word) // uint32(columns // 2))
    within = uint32(word - split * (columns // 2))
    row = uint32(uint32(token // SHARED_BY * (SHARED_BY // 2)) + token % 8)
    at = split * (chunk_size(columns, plan.tokens) // 2) + row * (row_stride(columns) // 2)
    return uint32(at + (within >> 1) * 4 + (within & 1) * 2 + (token >> 3 & 1))


@function
def open_stream(plan, state):
    """Prepares it (all threads of the block, the feeder's too). state: `local`, the caller's own."""
    stream = Stream(
        state,
        shared(plan.shared_tiles, plan.stages * plan.stage_elements, uint16),
        shared(plan.shared_landed, plan.stages, uint64),
        shared(plan.shared_free, plan.stages, uint64),
        shared(plan.shared_chunks, CHUNKS * plan.chunk_elements, uint16),
        shared(plan.shared_chunk_landed, CHUNKS, uint64),
        shared(plan.shared_chunk_free, CHUNKS, uint64),
        shared(plan.shared_opened, 1, uint64),
        shared(plan.shared_closed, 1, uint64),
    )
    for field in range(STATE_FIELDS):
        state[field] = uint32(0)
    if thread_index() == 0:
        for place in range(plan.stages):
            barrier_init(stream.landed, place)
            barrier_init(stream.free, place, plan.warps)
        for place in range(CHUNKS):
            barrier_init(stream.chunk_landed, place)
            barrier_init(stream.chunk_free, place, plan.warps)
        barrier_init(stream.opened, 0)
        barrier_init(stream.closed, 0)
    barrier_fence()
    sync_block()
    return stream


@function
def end_stream(plan, stream):
    """After `feed` and `close`: the memory may serve others (all threads of the block)."""
    sync_block()
    if thread_index() == 0:
        for place in range(plan.stages):
            barrier_end(stream.landed, place)
            barrier_end(stream.free, place)
        for place in range(CHUNKS):
            barrier_end(stream.chunk_landed, place)
            barrier_end(stream.chunk_free, place)
        barrier_end(stream.opened, 0)
        barrier_end(stream.closed, 0)
    sync_block()


@function
def go_on(state, place, parity, count):
    """To the next of `count` places."""
    state[place] += uint32(1)
    if state[place] == count:
        state[place] = uint32(0)
        state[parity] ^= uint32(1)


@function
def wait_stage(plan, stream):
    """The element of `stream.tiles` where the next stage begins, once it is there (worker's warp)."""
    barrier_wait(stream.landed, stream.state[STAGE], stream.state[STAGE_PARITY])
    return uint32(stream.state[STAGE] * plan.stage_elements)


@function
def release_stage(plan, stream):
    """The warp has read the stage (worker's warp)."""
    sync_warp()
    if lane_index() == 0:
        barrier_arrive(stream.free, stream.state[STAGE])
    go_on(stream.state, STAGE, STAGE_PARITY, plan.stages)


@function
def wait_chunk(plan, stream):
    """The element of `stream.chunks` where the next chunk begins, once it is there (worker's warp)."""
    barrier_wait(stream.chunk_landed, stream.state[CHUNK], stream.state[CHUNK_PARITY])
    return uint32(stream.state[CHUNK] * plan.chunk_elements)


@function
def release_chunk(stream):
    """The warp has read the chunk (worker's warp)."""
    sync_warp()
    if lane_index() == 0:
        barrier_arrive(stream.chunk_free, stream.state[CHUNK])
    go_on(stream.state, CHUNK, CHUNK_PARITY, CHUNKS)


@function
def close_stream(stream):
    """The workers need no more (worker)."""
    if thread_index() == 0:
        barrier_arrive(stream.closed, 0)
