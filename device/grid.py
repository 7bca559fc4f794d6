"""Barriers for a whole grid: of this PE's blocks, and of all PEs."""

from .backend import (
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
    store_relaxed,
    store_release,
    sync_block,
    thread_index,
    uint64,
)
from .communicator import BARRIER_ALL, begin, finish, limits_of, signal_place
from .exchange import wait_for_signals
from .watch import BARRIER, GRID, LEAVE, keep_waiting


@function
def sync_grid(comm):
    """Returns when all blocks of the launch have called it; what they wrote before can be read after (grid).

    Blocks wait for each other: all must be resident at once, as `PE.run` launches them.
    """
    sync_block()
    if thread_index() == 0:
        _meet(comm, 2 * comm.shape.lanes, 2 * comm.shape.lanes + 1)
    sync_block()


@function
def _meet(comm, arrived, meetings):
    """The last block to arrive opens the door to all (thread)."""
    limits = limits_of(comm)
    meeting = load_acquire(comm.epochs, meetings)
    if atomic_add(comm.epochs, arrived, int64(1)) == grid_size() - 1:
        store_relaxed(comm.epochs, arrived, int64(0))
        store_release(comm.epochs, meetings, meeting + 1)
        return
    polls = began = 0
    while load_acquire(comm.epochs, meetings) == meeting and began != LEAVE:
        polls += 1
        began = keep_waiting(limits, polls, began, GRID, comm.rank, block_index(), meeting + 1, meeting, 0)


@function
def barrier_all_block(comm):
    """Returns when this block of every PE has called it; what they put or stored before can be read after (block)."""
    epoch = begin(comm)
    if comm.shape.put:
        quiet()
        sync_block()
    for p in range(thread_index(), comm.shape.pes, block_size()):
        at = signal_place(comm, BARRIER_ALL, comm.rank)
        if comm.shape.put:
            signal(comm.signals, at, epoch, comm.pes[p])
        else:
            store_release(peer(comm.signals, comm.distances[p]), at, uint64(epoch))
    wait_for_signals(comm, epoch, BARRIER_ALL, BARRIER)
    finish(comm, epoch)


@function
def barrier_all_grid(comm):
    """`barrier_all_block` for all blocks of the launches of all PEs (grid)."""
    sync_grid(comm)
    if block_index() == 0:
        barrier_all_block(comm)
    sync_grid(comm)
