"""Bounded waits: no spin of this project lasts for ever.

The host writes a watch's limit, and the first thread that waits longer writes a report of what it waited for. From then
on every wait of that PE ends at once, the kernel leaves at its next check (`has_expired`), and the host raises the
report as one error.
"""

from collections import namedtuple

from .backend import (
    POLLS_BETWEEN_CHECKS,
    anew,
    atomic_cas,
    clock,
    function,
    int64,
    load_relaxed,
    pause,
    store_relaxed,
    store_release,
    uint32,
)

Watch = namedtuple("Watch", "state report")
Watch.__doc__ = """A kernel's argument, made by `PE.watch`. state: int64 [STATE_WORDS] in the memory of the device, for
every thread that waits looks at it; report: int64 [REPORT_WORDS], which the host sees while the kernel runs (of host
memory, thousands of threads read one after another: once they waited long, they waited for that)."""

LIMIT, EXPIRED, PE, OPERATION, PEER, SLOT, WANTED, SEEN = range(8)
STATE_WORDS, REPORT_WORDS = 2, 8  # a state has no more than the first two

COLLECTIVE, HIDDEN, QUERY, PARTIAL, ATTENTION, ACTIVATION, VOTE, SIGNAL, BARRIER, GRID = range(1, 11)
OPERATIONS = {
    COLLECTIVE: "a collective's data",
    HIDDEN: "the hidden state",
    QUERY: "the query, key and value",
    PARTIAL: "the attention's partial results",
    ATTENTION: "the attention's output",
    ACTIVATION: "the MLP's activations",
    VOTE: "the vote on the next token or a stop",
    SIGNAL: "a signal",
    BARRIER: "a barrier of PEs",
    GRID: "a barrier of blocks",
}

Limits = namedtuple("Limits", "watch pe")
Limits.__doc__ = """What a wait needs beside its data: the launch's watch and, to report, this PE's rank in its team."""

LEAVE = -1


@function
def keep_waiting(limits, polls, began, operation, peer, slot, wanted, seen, nap=0):
    """Called by a thread after its `polls`-th failed poll; returns what to pass as `began` next time, or LEAVE.

    `began` is 0 at first. Operation, peer, slot, the value wanted and the one seen go into the report. nap: nanoseconds
    until the next poll, for waits that may be long.
    """
    pause(nap, polls)
    if polls % POLLS_BETWEEN_CHECKS != 0:
        return began
    expired = int64(anew(uint32(EXPIRED)))  # or a compiler would keep addresses in registers all the time
    if load_relaxed(limits.watch.state, expired) != 0:
        return int64(LEAVE)
    now = clock()
    if began == 0:
        return now
    limit = limits.watch.state[LIMIT]
    if peer == limits.pe:
        limit += limit >> 3  # this PE's own blocks may wait for another PE: that wait is the one to tell of
    if now - began < limit:
        return began
    if atomic_cas(limits.watch.state, expired, int64(0), int64(1)) == 0:
        store_relaxed(limits.watch.report, expired + (PE - EXPIRED), int64(limits.pe))
        store_relaxed(limits.watch.report, expired + (OPERATION - EXPIRED), int64(operation))
        store_relaxed(limits.watch.report, expired + (PEER - EXPIRED), int64(peer))
        store_relaxed(limits.watch.report, expired + (SLOT - EXPIRED), int64(slot))
        store_relaxed(limits.watch.report, expired + (WANTED - EXPIRED), int64(wanted))
        store_relaxed(limits.watch.report, expired + (SEEN - EXPIRED), int64(seen))
        store_release(limits.watch.report, expired, int64(1))  # the host may look at any time
    return int64(LEAVE)


@function
def has_expired(limits):
    """True once a wait of this PE has run out. Threads of a block may see it at different times."""
    return load_relaxed(limits.watch.state, EXPIRED) != 0
