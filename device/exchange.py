"""Data between the same lane of all PEs: by packets, or by NVSHMEM's put_signal where the communicator says so.

A thread posts packets, the block delivers them, a thread collects. Packets are on their way when they are posted, and
`collect` polls for them; puts leave with `deliver`, which returns when all of them have come.
"""

from collections import namedtuple

from .backend import (
    block_index,
    block_size,
    function,
    load_pair,
    load_relaxed,
    peer,
    put_signal_block,
    signal,
    store_packet,
    store_pair,
    store_relaxed,
    sync_block,
    thread_index,
    uint32,
    uint64,
)
from .communicator import MEETING, limits_of, place, signal_place
from .element import load_elements, store_elements
from .packets import receive, receive_from_all
from .shmem import wait_for_epoch
from .watch import COLLECTIVE, LEAVE, keep_waiting

Parts = namedtuple("Parts", "array start length total")
Parts.__doc__ = """Elements of an array in parts, one for each PE: part p begins `p * length` elements after `start`;
there are `total` elements in all."""


@function
def load_part(kind, parts, p, i):
    """The packet that begins at element `i` of part `p` (thread)."""
    count = min(parts.length - i, parts.total - p * parts.length - i)
    return load_elements(kind, parts.array, parts.start + p * parts.length + i, count)


@function
def store_part(kind, parts, p, i, first, second):
    """The reverse of `load_part`."""
    count = min(parts.length - i, parts.total - p * parts.length - i)
    store_elements(kind, parts.array, parts.start + p * parts.length + i, count, first, second)


@function
def post(comm, epoch, phase, number, p, first, second):
    """Data for PE `p` as packet `number` of this lane (thread)."""
    if comm.shape.put:
        _store_out(comm, p, number, first, second)
    else:
        at, tag = 4 * place(comm, epoch, phase, comm.rank, number), uint32(epoch)
        store_packet(peer(comm.slots, comm.distances[p]), at, first, tag, second, tag)


@function
def post_to_all(comm, epoch, phase, number, first, second):
    """The same data for every PE (thread)."""
    if comm.shape.put:
        _store_out(comm, 0, number, first, second)
    else:
        at, tag = 4 * place(comm, epoch, phase, comm.rank, number), uint32(epoch)
        for p in range(comm.shape.pes):
            store_packet(peer(comm.slots, comm.distances[p]), at, first, tag, second, tag)


@function
def _store_out(comm, receiver, number, first, second):
    at = (receiver * comm.shape.lanes + block_index()) * comm.shape.packets + number
    store_pair(comm.outbox, 2 * at, first, second)


@function
def deliver(comm, epoch, phase, count, same):
    """After `count` packets were posted, `same` to all or to each its own (block).

    With puts, sends them and waits for everyone's.
    """
    if comm.shape.put:
        sync_block()
        for p in range(comm.shape.pes):
            _put(comm, epoch, phase, count, 0 if same else p, p)
        wait_for_signals(comm, epoch, phase, COLLECTIVE)


@function
def _put(comm, epoch, phase, count, row, p):
    """Row `row` of the outbox to PE `p`, and the signal, also where there is nothing to say (block)."""
    to = 2 * place(comm, epoch, phase, comm.rank, 0)
    start = 2 * (row * comm.shape.lanes + block_index()) * comm.shape.packets
    at = signal_place(comm, phase, comm.rank)
    if count > 0:
        put_signal_block(comm.inbox, to, comm.outbox, start, 2 * count, comm.signals, at, epoch, comm.pes[p])
    elif thread_index() == 0:
        signal(comm.signals, at, epoch, comm.pes[p])


@function
def wait_for_signals(comm, epoch, phase, operation):
    """Waits for a signal of every PE; what was put before it can be read (block)."""
    limits = limits_of(comm)
    for p in range(thread_index(), comm.shape.pes, block_size()):
        wait_for_epoch(comm.signals, signal_place(comm, phase, p), epoch, limits, operation, p)
    sync_block()


@function
def collect(comm, epoch, phase, number, data):
    """Every PE's packet `number`: its words to `data`, uint32 [2 * pes] (thread)."""
    at = place(comm, epoch, phase, 0, number)
    step = comm.shape.lanes * comm.shape.packets
    if comm.shape.put:
        for p in range(comm.shape.pes):
            data[2 * p], data[2 * p + 1] = load_pair(comm.inbox, 2 * (at + p * step))
    else:
        limits = limits_of(comm)
        receive_from_all(comm.shape, comm.slots, 4 * at, 4 * step, uint32(epoch), data, limits, COLLECTIVE, 0)


@function
def collect_from(comm, epoch, phase, number, p):
    """PE p's packet `number`: its two words (thread)."""
    at = place(comm, epoch, phase, p, number)
    if comm.shape.put:
        return load_pair(comm.inbox, 2 * at)
    return receive(comm.slots, 4 * at, uint32(epoch), limits_of(comm), COLLECTIVE, p)


# --- where not every PE has data for every other: all hear from all the same ---


@function
def greet(comm, epoch):
    """Tells every PE that this lane is in `epoch` (block); with puts, every signal does."""
    if not comm.shape.put:
        for p in range(thread_index(), comm.shape.pes, block_size()):
            there = peer(comm.signals, comm.distances[p])
            store_relaxed(there, signal_place(comm, MEETING, comm.rank), uint64(epoch))


@function
def await_greetings(comm, epoch):
    """Returns when every PE's lane has been in `epoch`; for `finish` to follow (block)."""
    if not comm.shape.put:
        limits = limits_of(comm)
        for p in range(thread_index(), comm.shape.pes, block_size()):
            _await_greeting(comm, epoch, p, limits)


@function
def _await_greeting(comm, epoch, p, limits):
    at = signal_place(comm, MEETING, p)
    polls = began = 0
    seen = load_relaxed(comm.signals, at)
    while seen < uint64(epoch) and began != LEAVE:
        polls += 1
        began = keep_waiting(limits, polls, began, COLLECTIVE, p, at, epoch, seen, 0)
        seen = load_relaxed(comm.signals, at)
