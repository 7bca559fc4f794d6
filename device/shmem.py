"""NVSHMEM's verbs for kernels, and waits and barriers that end.

put, get, put_signal, signal, signal_fetch, fence and quiet are the backend's (backend/README.md says what each orders);
`_warp` and `_block` in a name mean that all threads of the warp or block call it together. Here is what waits.

Signals hold epochs: the caller numbers its exchanges 1, 2, 3, ..., and a wait ends once the signal holds the epoch
wanted or a later one. So a signal is never reset; it starts at zero, as symmetric memory does. No wait is endless:
`limits` (`Limits(watch, rank)`, where the watch is the host's `PE.watch()`) bounds each, and when one has run out every
later wait of that PE returns at once, so that the kernel ends and the host raises what it waited for.
"""

from .backend import (
    block_size,
    fence,
    function,
    get,
    get_block,
    get_warp,
    lane_index,
    put,
    put_block,
    put_signal,
    put_signal_block,
    put_signal_warp,
    put_warp,
    quiet,
    signal,
    signal_fetch,
    sync_block,
    sync_warp,
    thread_index,
    uint64,
    warp_size,
)
from .watch import BARRIER, LEAVE, SIGNAL, Limits, has_expired, keep_waiting

__all__ = [
    "Limits",
    "barrier",
    "barrier_block",
    "barrier_warp",
    "fence",
    "get",
    "get_block",
    "get_warp",
    "has_expired",
    "put",
    "put_block",
    "put_signal",
    "put_signal_block",
    "put_signal_warp",
    "put_warp",
    "quiet",
    "signal",
    "signal_fetch",
    "signal_wait",
    "signal_wait_block",
    "signal_wait_warp",
]


@function
def signal_wait(signals, i, value, limits):
    """Waits until this PE's `signals[i]` is `value` or more (thread).

    signals: symmetric uint64 array. value: the epoch wanted. Returns the value seen, below `value` only if the wait ran
    out. Acquires: what was put before that signal can be read.
    """
    return wait_for_epoch(signals, i, value, limits, SIGNAL, limits.pe)


@function
def signal_wait_warp(signals, i, value, limits):
    """`signal_wait` for a warp: lane 0 polls, and all lanes may read the data (warp). Returns nothing."""
    if lane_index() == 0:
        signal_wait(signals, i, value, limits)
    sync_warp()


@function
def signal_wait_block(signals, i, value, limits):
    """`signal_wait` for a block: thread 0 polls, and all threads may read the data (block). Returns nothing."""
    if thread_index() == 0:
        signal_wait(signals, i, value, limits)
    sync_block()


@function
def barrier(signals, i, epoch, pes, limits):
    """Waits for one thread of every PE of a team; what these threads put before is complete and visible after (thread).

    signals: symmetric uint64 array, of which `signals[i]` and on, one for each PE, are this barrier's. epoch: 1 in the
    first call, one more in each, the same on all PEs. pes: a table, or int64 array, of the team's PEs by their number
    in the job (`Team.pes`); `limits.pe` is the caller's rank among them. Costs a signal to each PE, one hop.
    """
    _meet(signals, i, epoch, pes, limits, 0, 1)


@function
def barrier_warp(signals, i, epoch, pes, limits):
    """`barrier` for one warp of every PE, and for what all its lanes put (warp)."""
    quiet()
    sync_warp()
    _meet(signals, i, epoch, pes, limits, lane_index(), warp_size())
    sync_warp()


@function
def barrier_block(signals, i, epoch, pes, limits):
    """`barrier` for one block of every PE, and for what all its threads put (block)."""
    quiet()
    sync_block()
    _meet(signals, i, epoch, pes, limits, thread_index(), block_size())
    sync_block()


@function
def _meet(signals, i, epoch, pes, limits, member, members):
    """One of `members` threads tells its share of the PEs, then waits for them."""
    quiet()
    for rank in range(member, len(pes), members):
        signal(signals, i + limits.pe, epoch, pes[rank])
    for rank in range(member, len(pes), members):
        wait_for_epoch(signals, i + rank, epoch, limits, BARRIER, rank)


@function
def wait_for_epoch(signals, i, epoch, limits, operation, peer):
    """`signal_wait` that reports `operation` (of watch.py) and the rank of the PE waited for (thread)."""
    polls = began = 0
    seen = signal_fetch(signals, i)
    while seen < uint64(epoch) and began != LEAVE:
        polls += 1
        began = keep_waiting(limits, polls, began, operation, peer, i, epoch, seen)
        seen = signal_fetch(signals, i)
    return seen
