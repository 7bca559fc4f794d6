"""Barriers for a whole grid: of this PE's blocks, and of all PEs."""

from .backend import (
    anew,
    atomic_add,
    block_index,
    block_size,
    function,
    grid_size,
    int64,
    load_acquire,
    peer,
    quiet,
    signal,
    store_release,
    sync_block,
    thread_index,
    uint32,
    uint64,
)
from .communicator import BARRIER_ALL, EXCHANGE, begin, finish, limits_of, signal_place
from .exchange import wait_for_signals
from .watch import BARRIER, GRID, LEAVE, keep_waiting

OPEN = 1 << 32  # more than the blocks of a grid add, and room for 2^31 meetings
LONG_NAP = 200  # nanoseconds: blocks that wait for long for one word keep others from words beside it


@function
def sync_grid(lane):
    """Returns when all blocks of the launch have called it; what they wrote before can be read after (grid).

    Blocks wait for each other: all must be resident at once, as `PE.run` launches them.
    """
    sync_block()
    if thread_index() == 0:
        meet_blocks(lane)
    sync_block()


@function
def meet_blocks(lane):
    """`sync_grid` between threads, one of each block; lane: or the communicator (thread)."""
    await_blocks(lane, arrive(lane))


@function
def arrive(lane):
    """The first half of `meet_blocks`; returns what `await_blocks` wants (thread).

    All add to one word; block 0 adds what makes the sum OPEN, so that this bit changes when the last one has come.
    """
    return atomic_add(lane.epochs, _sum_place(lane), _share_of_sum())


@function
def await_blocks(lane, before):
    """The second half: returns when all blocks have arrived (thread)."""
    limits, at = limits_of(lane), _sum_place(lane)
    seen = before + _share_of_sum()
    polls = began = 0
    while (seen ^ before) & OPEN == 0 and began != LEAVE:
        polls += 1
        began = keep_waiting(limits, polls, began, GRID, lane.rank, block_index(), int64(1), int64(0), LONG_NAP)
        seen = load_acquire(lane.epochs, at)


@function
def _sum_place(lane):
    """Behind the lanes' epochs. This and the share are found anew: a compiler would keep them in registers for ever."""
    return int64(anew(uint32(2 * lane.shape.lanes)))


@function
def _share_of_sum():
    return OPEN - (int64(anew(uint32(grid_size()))) - 1) if block_index() == 0 else int64(1)


@function
def barrier_all_block(lane):
    """Returns when this block of every PE has called it; what they put or stored before can be read after (block)."""
    if lane.shape.put:
        quiet()
    epoch = begin(lane, EXCHANGE)
    at = signal_place(lane, BARRIER_ALL, lane.rank)
    for p in range(lane.shape.pes):
        if thread_index() == min(p, block_size() - 1):
            if lane.shape.put:
                signal(lane.signals, at, epoch, lane.pes[p])
            else:
                store_release(peer(lane.signals, lane.distances[p]), at, uint64(epoch))
    wait_for_signals(lane, epoch, BARRIER_ALL, BARRIER)
    finish(lane, EXCHANGE, epoch)


@function
def barrier_all_grid(lane):
    """`barrier_all_block` for all blocks of the launches of all PEs (grid)."""
    if lane.shape.put:
        quiet()  # a thread's own puts
    sync_grid(lane)
    if block_index() == 0:
        barrier_all_block(lane)
    sync_grid(lane)
