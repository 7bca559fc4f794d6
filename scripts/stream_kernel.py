"""A kernel that streams tiles into shared memory, and beside that asks the L2 for words and tells other blocks some."""

from collections import namedtuple

from shmemtp.device import (
    barrier_expect,
    barrier_fence,
    barrier_init,
    barrier_test,
    block_index,
    bulk_load,
    clock,
    cycles,
    function,
    grid_size,
    int64,
    kernel,
    lane_index,
    load_packet,
    load_relaxed,
    pause,
    shared,
    store_relaxed,
    sync_block,
    thread_index,
    uint16,
    uint32,
    uint64,
    warp_index,
)

STREAMERS, DEPTH = 16, 3  # at most: warps of a block that stream, and copies of each that are under way
TILE = 2048  # elements of two bytes: 4 KiB
ASKED = 64  # loads, and round trips, of a block
PACKETS = 1024  # of 16 bytes, that are loaded: a power of two, for a division would be timed with the load
LOOK = 63  # polls between two looks at the time, which would take longer than a poll, less one
APART = 32  # words of 8 bytes between the flags of two blocks
RING_BYTES = 2 * TILE * STREAMERS * DEPTH
SHARED_BYTES = RING_BYTES + 8 * STREAMERS * DEPTH

Streaming = namedtuple("Streaming", "warps depth every begin_ns end_ns")
Streaming.__doc__ = """A kernel's argument: each of `warps` warps of every `every`-th block keeps `depth` copies under
way until end_ns; the last warp begins to ask at begin_ns. Nanoseconds after the block's start."""


@kernel
def stream_and_ask(streaming, tiles, words, flags, loads, trips, counts):
    """Blocks of STREAMERS warps that stream, if they are to, and one that asks.

    tiles: uint16, the memory that is streamed. words: uint32 [4 * PACKETS], zeros. flags: int64 [grid * APART], zeros.
    loads, trips: int64 [grid, ASKED], cycles of each load and of each round trip to the block two further, or -1 where
    the time was over. counts: int64 [grid, STREAMERS], tiles that landed before it was.
    """
    ring, landed = shared(0, TILE * STREAMERS * DEPTH, uint16), shared(RING_BYTES, STREAMERS * DEPTH, uint64)
    if thread_index() == 0:
        for stage in range(STREAMERS * DEPTH):
            barrier_init(landed, stage)
        barrier_fence()
    sync_block()
    start = clock()
    warp, block = warp_index(), block_index()
    if lane_index() == 0:
        if warp == STREAMERS:
            while clock() - start < streaming.begin_ns:
                pause()
            ask(streaming, start, words, flags, loads, trips)
        elif warp < streaming.warps and block % streaming.every == 0:
            copy_tiles(streaming, start, tiles, ring, landed, counts)


@function
def copy_tiles(streaming, start, tiles, ring, landed, counts):
    """A warp's part of the stream (thread)."""
    warp, all_tiles = warp_index(), tiles.size // TILE
    tile, step = block_index() * streaming.warps + warp, grid_size() * streaming.warps
    stage, parity, count = int64(0), uint32(0), int64(0)
    for ahead in range(streaming.depth):
        copy_tile(tiles, tile % all_tiles, ring, landed, warp + STREAMERS * ahead)
        tile += step
    while clock() - start < streaming.end_ns:
        wait_for(landed, warp + STREAMERS * stage, parity)
        count += 1
        copy_tile(tiles, tile % all_tiles, ring, landed, warp + STREAMERS * stage)
        tile += step
        stage += 1
        if stage == streaming.depth:
            stage = int64(0)
            parity ^= uint32(1)
    for _ in range(streaming.depth):
        wait_for(landed, warp + STREAMERS * stage, parity)
        stage += 1
        if stage == streaming.depth:
            stage = int64(0)
            parity ^= uint32(1)
    counts[block_index() * STREAMERS + warp] = count


@function
def copy_tile(tiles, tile, ring, landed, stage):
    barrier_expect(landed, stage, 2 * TILE)
    bulk_load(ring, stage * TILE, tiles, tile * TILE, 2 * TILE, landed, stage)


@function
def wait_for(landed, stage, parity):
    while not barrier_test(landed, stage, parity):
        pause(0)


@function
def ask(streaming, start, words, flags, loads, trips):
    """Loads one after another, then messages to and fro between two blocks (thread)."""
    block = block_index()
    for n in range(ASKED):
        began = cycles()
        word, _, _, _ = load_packet(words, 4 * ((block * ASKED + n) & (PACKETS - 1)))
        if word == uint32(0):  # so that the clock is read after the word has come
            loads[block * ASKED + n] = cycles() - began
    other, first = block ^ 2, block & 2 == 0
    for n in range(1, ASKED + 1):
        began = cycles()
        if first:
            store_relaxed(flags, APART * other, int64(n))
        polls = 1
        while load_relaxed(flags, APART * block) < n and (polls & LOOK != 0 or clock() - start < streaming.end_ns):
            polls += 1
            pause(0)
        if not first:
            store_relaxed(flags, APART * other, int64(n))
        in_time = clock() - start < streaming.end_ns
        trips[block * ASKED + n - 1] = cycles() - began if in_time else int64(-1)
