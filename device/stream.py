"""The weight stream's ring in shared memory: the feeder (feeder.py) fills it, the workers multiply what it holds.

The tiles of sequence.py come in its order, as long as the ring has room: they may lie several products, or a token,
ahead of what the workers multiply. So the stream never waits for activations. A batch of tiles takes `plan.batch`
stages of the ring; where a block's tiles of a product are no multiple of that, the last stages stay empty. Of all
stages that were ever filled with tiles number s belongs to worker warp s % warps. A page of the context
takes a batch's place; who reads it is attention.py's to say.
"""

from collections import namedtuple

from .backend import (
    barrier_arrive,
    barrier_end,
    barrier_fence,
    barrier_init,
    barrier_wait,
    function,
    lane_index,
    sync_block,
    sync_warp,
    thread_index,
    uint32,
    warp_index,
)
from .sequence import TILE_ROWS

Stream = namedtuple("Stream", "state ring landed free closed")
Stream.__doc__ = """A worker's end of the stream.

state: uint32[STATE_FIELDS], the thread's own. ring: uint16 in shared memory. landed, free: uint64 mbarriers in shared
memory, two for each batch of stages: its tiles can be read, it can take others. closed: uint64[1], an mbarrier: the
workers need no more.
"""
# The state: the stage of the warp's next tile, the parity of its landing, the tile's number in its product.
STAGE, PARITY, TILE = range(3)
STATE_FIELDS = 3


@function
def open_stream(plan, stream):
    """Prepares the ring (all threads of the block, the feeder's too)."""
    state = stream.state
    state[STAGE] = state[TILE] = uint32(warp_index())
    state[PARITY] = uint32(0)
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
def batch_of(plan, stage):
    return uint32(stage // uint32(plan.batch))


@function
def wait_tile(plan, stream, columns):
    """Waits for the warp's next tile, of so many columns; returns where it starts in the ring (worker's warp).

    The copy engine depends on no other PE or block: this wait and that of a page have no limit.
    """
    stage = stream.state[STAGE]
    batch = batch_of(plan, stage)
    if plan.short_ring:
        # It has come round to a batch when another one, fetched later, has landed: what this one held before may not
        # have, and a wait for the next landing would take it for that one. Once it is free it has.
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
def wait_page(plan, stream, number):
    """Waits for page `number` of the context, where the workers have come to that; returns its batch (worker's warp).

    Each of `plan.attending` warps takes one of as many pages that follow each other, and the ring has room for all of
    these; workers meet before the first and behind the last. Any warp may wait for one that the ring holds with the
    first.
    """
    # The next tile's batch, whoever's it is, seen from the ring's turn before.
    stage = uint32(stream.state[STAGE] + plan.stages - stream.state[TILE])
    batches, batch = plan.stages // plan.batch, uint32(batch_of(plan, stage) + number)
    turns = uint32(batch // uint32(batches))
    batch, parity = uint32(batch - turns * batches), uint32(stream.state[PARITY] ^ (turns & 1) ^ 1)
    if plan.short_context:
        barrier_wait(stream.free, batch, parity ^ uint32(1))  # as `wait_tile` does in a short ring
    barrier_wait(stream.landed, batch, parity)
    return batch


@function
def release_page(plan, stream, batch):
    """All lanes have read the page: its stages are free (worker's warp)."""
    sync_warp()
    if lane_index() == 0:
        for _ in range(plan.batch):
            barrier_arrive(stream.free, batch)


@function
def pass_pages(plan, stream, pages):
    """The workers have come to what follows `pages` pages of the context (worker)."""
    stage = uint32(stream.state[STAGE] + pages * plan.batch)
    turns = uint32(stage // uint32(plan.stages))
    stream.state[STAGE] = uint32(stage - turns * plan.stages)
    stream.state[PARITY] ^= uint32(turns & 1)


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
