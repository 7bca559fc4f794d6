"""Data between the same lane of all PEs: by packets, or by NVSHMEM's put_signal where the communicator says so.

A thread posts packets, the block delivers them, a thread collects. Packets are on their way when they are posted, and
`collect` polls for them; puts leave with `deliver`, which returns when all of them have come.
"""

from collections import namedtuple

from .backend import (
    block_index,
    block_size,
    check_extent,
    check_kind,
    fence,
    function,
    load_pair,
    load_relaxed,
    peer,
    put_signal_block,
    put_signal_warp,
    signal,
    store_packet,
    store_pair,
    store_relaxed,
    sync_block,
    sync_threads,
    thread_index,
    uint32,
    uint64,
    warp_index,
)
from .communicator import MEETING, box_place, limits_of, signal_place, slot_place
from .element import MOST_KINDS, elements_of_packet, load_elements, store_elements
from .packets import receive, receive_from_all
from .shmem import wait_for_epoch
from .watch import COLLECTIVE, LEAVE, keep_waiting

Parts = namedtuple("Parts", "array start length total whole")
Parts.__doc__ = """Elements of an array in parts, one for each PE: part p begins `p * length` elements after `start`;
there are `total` elements in all. whole: whether that makes whole packets, at multiples of 8 bytes."""


@function
def parts_of(kind, array, start, length, total):
    """See Parts (thread)."""
    check_kind(0 <= kind < MOST_KINDS and array.itemsize * elements_of_packet(kind) == 8)
    check_extent(start >= 0 and length >= 0 and total >= 0 and start + total <= array.size)
    return Parts(array, start, length, total, (start | length | total) & (elements_of_packet(kind) - 1) == 0)


@function
def load_part(kind, parts, p, i):
    """The packet that begins at element `i` of part `p`; where there is none, what nobody will store (thread)."""
    behind = p * parts.length + i
    if parts.whole:
        if behind < parts.total:
            return load_pair(parts.array, parts.start + behind)
        return uint32(0), uint32(0)
    return load_elements(kind, parts.array, parts.start + behind, min(parts.length - i, parts.total - behind))


@function
def store_part(kind, parts, p, i, first, second):
    """The reverse of `load_part`."""
    behind = p * parts.length + i
    if parts.whole:
        if i < parts.length and behind < parts.total:
            store_pair(parts.array, parts.start + behind, first, second)
    else:
        count = min(parts.length - i, parts.total - behind)
        store_elements(kind, parts.array, parts.start + behind, count, first, second)


@function
def load_only(kind, parts, i):
    """The packet that begins at element `i` of the only part, which has one there (thread)."""
    if parts.whole:
        return load_pair(parts.array, parts.start + i)
    return load_elements(kind, parts.array, parts.start + i, parts.total - i)


@function
def store_only(kind, parts, i, first, second):
    """The reverse of `load_only`."""
    if parts.whole:
        store_pair(parts.array, parts.start + i, first, second)
    else:
        store_elements(kind, parts.array, parts.start + i, parts.total - i, first, second)


@function
def post(lane, epoch, phase, number, p, first, second):
    """Data for PE `p` as packet `number` of this lane (thread)."""
    if lane.shape.put:
        _store_out(lane, p, number, first, second)
    else:
        at, tag = 4 * slot_place(lane, epoch, phase, lane.rank, number), uint32(epoch)
        store_packet(peer(lane.slots, lane.distances[p]), at, first, tag, second, tag)


@function
def post_to_all(lane, epoch, phase, number, first, second):
    """The same data for every PE (thread)."""
    _post_to_all_but(lane, -1, epoch, phase, number, first, second)


@function
def post_to_others(lane, epoch, phase, number, first, second):
    """The same data for every other PE; `collect_others` gives this PE's own to where it is summed (thread)."""
    _post_to_all_but(lane, lane.rank, epoch, phase, number, first, second)


@function
def _post_to_all_but(lane, rank, epoch, phase, number, first, second):
    if lane.shape.put:
        _store_out(lane, 0, number, first, second)
    else:
        at, tag = 4 * slot_place(lane, epoch, phase, lane.rank, number), uint32(epoch)
        for p in range(lane.shape.pes):
            if p != rank:
                store_packet(peer(lane.slots, lane.distances[p]), at, first, tag, second, tag)


@function
def _store_out(lane, receiver, number, first, second):
    at = (receiver * lane.shape.lanes + block_index()) * lane.shape.packets + number
    store_pair(lane.outbox, 2 * at, first, second)


@function
def sync_lane(lane):
    """A barrier of the lane's threads: all of the block, or its first `lane.shape.threads`."""
    if lane.shape.threads > 0:
        sync_threads(lane.shape.threads)
    else:
        sync_block()


@function
def deliver(lane, epoch, phase, count, same):
    """After `count` packets were posted, `same` to all or to each its own (block).

    With puts, sends them and waits for everyone's.
    """
    if lane.shape.put:
        fence()  # a signal sets an epoch: it must not come before the one of the exchange before
        sync_lane(lane)
        for p in range(lane.shape.pes):
            _put(lane, epoch, phase, count, 0 if same else p, p)
        wait_for_signals(lane, epoch, phase, COLLECTIVE)


@function
def _put(lane, epoch, phase, count, row, p):
    """Row `row` of the outbox to PE `p`, and the signal, also where there is nothing to say (block)."""
    to = 2 * box_place(lane, epoch, phase, lane.rank, 0)
    start = 2 * (row * lane.shape.lanes + block_index()) * lane.shape.packets
    at = signal_place(lane, phase, lane.rank)
    if count > 0 and lane.shape.threads == 0:
        put_signal_block(lane.inbox, to, lane.outbox, start, 2 * count, lane.signals, at, epoch, lane.pes[p])
    elif count > 0:  # NVSHMEM's block is all of the threads that were launched
        if warp_index() == 0:
            put_signal_warp(lane.inbox, to, lane.outbox, start, 2 * count, lane.signals, at, epoch, lane.pes[p])
    elif thread_index() == 0:
        signal(lane.signals, at, epoch, lane.pes[p])


@function
def wait_for_signals(lane, epoch, phase, operation):
    """Waits for a signal of every PE; what was put before it can be read (block)."""
    limits = limits_of(lane)
    p = thread_index()
    while p < lane.shape.pes:
        wait_for_epoch(lane.signals, signal_place(lane, phase, p), epoch, limits, operation, p)
        p += lane.shape.threads if lane.shape.threads > 0 else block_size()
    sync_lane(lane)


@function
def collect(lane, epoch, phase, number, data):
    """Every PE's packet `number`: its words to `data`, uint32 [2 * pes] (thread)."""
    step = lane.shape.lanes * lane.shape.packets
    if lane.shape.put:
        at = box_place(lane, epoch, phase, 0, number)
        for p in range(lane.shape.pes):
            data[2 * p], data[2 * p + 1] = load_pair(lane.inbox, 2 * (at + p * step))
    else:
        at, limits = slot_place(lane, epoch, phase, 0, number), limits_of(lane)
        receive_from_all(lane.shape, lane.slots, 4 * at, 4 * step, uint32(epoch), data, limits, COLLECTIVE)


@function
def collect_others(lane, epoch, phase, number, first, second, data):
    """`collect` of what was posted to others; first, second: what this PE itself posted (thread)."""
    if lane.shape.put:
        collect(lane, epoch, phase, number, data)
    else:
        step = 4 * lane.shape.lanes * lane.shape.packets
        at, limits = 4 * slot_place(lane, epoch, phase, 0, number), limits_of(lane)
        for p in range(lane.shape.pes):
            if p == lane.rank:
                data[2 * p], data[2 * p + 1] = first, second
        receive_from_all(lane.shape, lane.slots, at, step, uint32(epoch), data, limits, COLLECTIVE, but=lane.rank)


@function
def collect_from(lane, epoch, phase, number, p):
    """PE p's packet `number`: its two words (thread)."""
    if lane.shape.put:
        return load_pair(lane.inbox, 2 * box_place(lane, epoch, phase, p, number))
    at = 4 * slot_place(lane, epoch, phase, p, number)
    return receive(lane.slots, at, uint32(epoch), limits_of(lane), COLLECTIVE, p)


# --- where not every PE has data for every other: all hear from all the same ---


@function
def greet(lane, epoch):
    """Tells every PE that this lane is in `epoch` (block); with puts, every signal does."""
    if not lane.shape.put:
        at = signal_place(lane, MEETING, lane.rank)
        for p in range(lane.shape.pes):
            if thread_index() == min(p, block_size() - 1):
                store_relaxed(peer(lane.signals, lane.distances[p]), at, uint64(epoch))


@function
def await_greetings(lane, epoch):
    """Returns when every PE's lane has been in `epoch`; for `finish` to follow (block)."""
    if not lane.shape.put:
        limits = limits_of(lane)
        p = thread_index()
        while p < lane.shape.pes:
            _await_greeting(lane, epoch, p, limits)
            p += block_size()


@function
def _await_greeting(lane, epoch, p, limits):
    at = signal_place(lane, MEETING, p)
    polls = began = 0
    seen = load_relaxed(lane.signals, at)
    while seen < uint64(epoch) and began != LEAVE:
        polls += 1
        began = keep_waiting(limits, polls, began, COLLECTIVE, p, at, epoch, seen)
        seen = load_relaxed(lane.signals, at)
