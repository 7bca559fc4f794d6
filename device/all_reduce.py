"""All-reduce: the sum of every PE's elements, on every PE, with the same bits.

One-shot: everyone sends everything to everyone and adds; one hop, for what is small. Two-shot: each PE adds one part of
what all have sent it and sends the sum to all; two hops, and 2 / pes of the bytes. The sums are float32 in the order of
the PEs, rounded once (INT32: wrapped around). `_block` is called by all threads of a block, which exchanges with the
same block of the other PEs. `_grid` is called by all threads of all blocks, each of which does a share, some bytes in
turn, and waits for no other: `sync_grid(lane)` must stand between it and whatever another block wrote or will
overwrite, that is before it if other blocks wrote the source, and after it before the target is read or the source
written. Grid and block are the same on all PEs.
"""

from .backend import block_index, block_size, function, grid_size, local, sync_block, thread_index, uint32
from .communicator import EXCHANGE, FIRST, SECOND, close, next_epoch, record
from .element import elements_of_packet, sum_of_data
from .exchange import deliver, load_only, load_part, parts_of, store_only, store_part
from .rounds import (
    begin_turn,
    collect_others,
    count_turns,
    end_turn,
    enter,
    forward_sum,
    is_left,
    post_to_others,
    receive_from_each,
    receive_sum,
    send_to_all,
    send_to_each,
)
from .work import capacity, count_due, divide_up, first_of, goes_in_lines, packet_of, share


@function
def all_reduce_block(lane, kind, source, start, target, to, count):
    """`count` elements from `source[start]` on, summed, from `target[to]` on (block).

    lane: `open_lane`'s; kind: of element.py, what source and target hold; both may be the same memory, and only then
    overlap. PEs call it with the same count, below 2^31. The block's threads may read the result; others after a
    barrier.
    """
    _all_reduce(lane, kind, source, start, target, to, count, 0, 1)


@function
def all_reduce_grid(lane, kind, source, start, target, to, count):
    """`all_reduce_block` by all blocks of the launch (grid)."""
    _all_reduce(lane, kind, source, start, target, to, count, block_index(), grid_size())


@function
def _all_reduce(lane, kind, source, start, target, to, count, part, parts):
    """What part `part` of `parts` blocks does of it (block)."""
    each = elements_of_packet(kind)
    nbytes, work = count * (8 // each), share(kind, count, part, parts, False)
    # one branch for what is small: each on the way to the hop costs about 22 cycles
    if has_one_packet_each(lane, work) & (nbytes < min(lane.shape.two_shot_bytes, lane.shape.line_bytes)):
        given, taken = parts_of(kind, source, start, count, count), parts_of(kind, target, to, count, count)
        one_packet_each(lane, kind, given, taken, work)
    elif nbytes < lane.shape.two_shot_bytes:
        given, taken = parts_of(kind, source, start, count, count), parts_of(kind, target, to, count, count)
        if goes_in_lines(lane, kind, count):
            in_lines = share(kind, count, part, parts, True)
            if has_one_packet_each(lane, in_lines):
                one_packet_each(lane, kind, given, taken, in_lines)
            else:
                one_shot(lane, kind, given, taken, in_lines)
        else:
            one_shot(lane, kind, given, taken, work)
    else:
        length = divide_up(count, lane.shape.pes * each) * each  # of a PE's part, in whole packets
        given, taken = parts_of(kind, source, start, length, count), parts_of(kind, target, to, length, count)
        if goes_in_lines(lane, kind, count):
            two_shot(lane, kind, given, taken, share(kind, length, part, parts, True))
        else:
            two_shot(lane, kind, given, taken, share(kind, length, part, parts, False))


@function
def has_one_packet_each(lane, work):
    """Whether no thread has more than one packet, of which an exchange takes all (block)."""
    return (packet_of(work, first_of(work, block_size())) >= work.packets) & (block_size() <= capacity(lane, work))


@function
def one_packet_each(lane, kind, source, target, work):
    """`one_shot` where no thread has more than one packet: no loop stands before the hop, or behind it (block)."""
    number = thread_index()
    packet, data = packet_of(work, number), local(lane.shape.pes_twice, uint32)
    at, due = packet * elements_of_packet(kind), packet_of(work, first_of(work, number)) < work.packets
    if not lane.wait:
        sync_block()  # `begin`'s
    enter(lane)
    if packet_of(work, 0) < work.packets:
        epoch = next_epoch(lane, EXCHANGE)
        a = b = uint32(0)
        if due:
            if work.in_lines:
                a, b = load_part(kind, source, 0, at)
            else:
                a, b = load_only(kind, source, at)
        if lane.wait:
            sync_block()  # `record`'s, where it delays nothing: what was loaded is still on its way
        if due:
            post_to_others(lane, work, epoch, FIRST, number, a, b)
        deliver(lane, epoch, FIRST, count_due(lane, work, 0), True)
        record(lane, EXCHANGE, epoch)
        if due:
            collect_others(lane, work, epoch, FIRST, number, a, b, data)
            a, b = sum_of_data(kind, data, lane.shape.pes)
            if work.in_lines:
                store_part(kind, target, 0, at, a, b)
            else:
                store_only(kind, target, at, a, b)
        close(lane, EXCHANGE, epoch)


@function
def one_shot(lane, kind, source, target, work):
    """The block's packets of the message (block)."""
    enter(lane)
    turn = 0
    while is_left(lane, work, turn):
        epoch, begun = begin_turn(lane, work, turn)
        send_to_all(lane, kind, epoch, work, begun, source)
        receive_sum(lane, kind, epoch, work, begun, target)
        turn = end_turn(lane, epoch, turn)
    count_turns(lane, turn)


@function
def two_shot(lane, kind, source, target, work):
    """The block's packets of every PE's part: a reduce-scatter and an all-gather in one exchange (block)."""
    enter(lane)
    turn = 0
    while is_left(lane, work, turn):
        epoch, begun = begin_turn(lane, work, turn)
        send_to_each(lane, kind, epoch, work, begun, source)
        forward_sum(lane, kind, epoch, work, begun)
        receive_from_each(lane, kind, epoch, SECOND, work, begun, target)
        turn = end_turn(lane, epoch, turn)
    count_turns(lane, turn)
