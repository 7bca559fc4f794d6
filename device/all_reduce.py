"""All-reduce: the sum of every PE's elements, on every PE, with the same bits.

One-shot: everyone sends everything to everyone and adds; one hop, for what is small. Two-shot: each PE adds one part of
what all have sent it and sends the sum to all; two hops, and 2 / pes of the bytes. The sums are float32 in the order of
the PEs, rounded once (INT32: wrapped around). `_block` is called by all threads of a block, which exchanges with the
same block of the other PEs. `_grid` is called by all threads of all blocks, each of which does a share, lines of 64
bytes in turn, and waits for no other: `sync_grid(lane)` must stand between it and whatever another block wrote or will
overwrite, that is before it if other blocks wrote the source, and after it before the target is read or the source
written.
"""

from .backend import block_index, function, grid_size
from .communicator import EXCHANGE, SECOND, begin, capacity, divide_up, finish, goes_in_lines, packet_of, share
from .element import elements_of_packet
from .exchange import parts_of
from .rounds import forward_sum, receive_from_each, receive_sum, send_to_all, send_to_each


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
    """`all_reduce_block` by all blocks of the launch, whose grid is the same on all PEs (grid)."""
    _all_reduce(lane, kind, source, start, target, to, count, block_index(), grid_size())


@function
def _all_reduce(lane, kind, source, start, target, to, count, part, parts):
    """What part `part` of `parts` blocks does of it (block)."""
    each = elements_of_packet(kind)
    if count * (8 // each) < lane.shape.two_shot_bytes:
        given, taken = parts_of(kind, source, start, count, count), parts_of(kind, target, to, count, count)
        if goes_in_lines(lane, kind, count):
            one_shot(lane, kind, given, taken, share(kind, count, part, parts, True))
        else:
            one_shot(lane, kind, given, taken, share(kind, count, part, parts, False))
    else:
        length = divide_up(count, lane.shape.pes * each) * each  # of a PE's part, in whole packets
        given, taken = parts_of(kind, source, start, length, count), parts_of(kind, target, to, length, count)
        if goes_in_lines(lane, kind, count):
            two_shot(lane, kind, given, taken, share(kind, length, part, parts, True))
        else:
            two_shot(lane, kind, given, taken, share(kind, length, part, parts, False))


@function
def one_shot(lane, kind, source, target, work):
    """The block's packets of the message (block)."""
    begun = 0
    while packet_of(work, begun) < work.packets:
        epoch = begin(lane, EXCHANGE)
        send_to_all(lane, kind, epoch, work, begun, source)
        receive_sum(lane, kind, epoch, work, begun, target)
        finish(lane, EXCHANGE, epoch)
        begun += capacity(lane, work)


@function
def two_shot(lane, kind, source, target, work):
    """The block's packets of every PE's part: a reduce-scatter and an all-gather in one exchange (block)."""
    begun = 0
    while packet_of(work, begun) < work.packets:
        epoch = begin(lane, EXCHANGE)
        send_to_each(lane, kind, epoch, work, begun, source)
        forward_sum(lane, kind, epoch, work, begun)
        receive_from_each(lane, kind, epoch, SECOND, work, begun, target)
        finish(lane, EXCHANGE, epoch)
        begun += capacity(lane, work)
