"""All-gather: every PE's elements, in the order of the PEs, on every PE. `_block`, `_grid`: see all_reduce.py."""

from .backend import block_index, block_size, function, grid_size, local, thread_index, uint32
from .communicator import EXCHANGE, FIRST, Work, begin, count_due, divide_up, finish, is_due, packet_of
from .element import elements_of_packet, load_elements
from .exchange import Parts, collect, deliver, post_to_all, store_part


@function
def all_gather_block(lane, kind, source, start, target, to, count):
    """`source[start : start + count]` of rank r to `target[to + r * count :]` of every PE (block).

    source: not within target, unless it is this PE's own part of it.
    """
    _all_gather(lane, kind, source, start, target, to, count, 0, 1)


@function
def all_gather_grid(lane, kind, source, start, target, to, count):
    """`all_gather_block` by all blocks of the launch (grid)."""
    _all_gather(lane, kind, source, start, target, to, count, block_index(), grid_size())


@function
def _all_gather(lane, kind, source, start, target, to, count, part, parts):
    each = elements_of_packet(kind)
    data = local(lane.shape.pes_twice, uint32)
    gathered = Parts(target, to, count, lane.shape.pes * count)
    work, begun = Work(divide_up(count, each), part, parts), 0
    while packet_of(work, begun) < work.packets:
        epoch = begin(lane, EXCHANGE)
        number, packet = thread_index(), packet_of(work, begun + thread_index())
        while is_due(lane, work, number, packet):
            i = packet * each
            a, b = load_elements(kind, source, start + i, count - i)
            post_to_all(lane, epoch, FIRST, number, a, b)
            number += block_size()
            packet = packet_of(work, begun + number)
        deliver(lane, epoch, FIRST, count_due(lane, work, begun), True)
        number, packet = thread_index(), packet_of(work, begun + thread_index())
        while is_due(lane, work, number, packet):
            i = packet * each
            collect(lane, epoch, FIRST, number, data)
            for p in range(lane.shape.pes):
                store_part(kind, gathered, p, i, data[2 * p], data[2 * p + 1])
            number += block_size()
            packet = packet_of(work, begun + number)
        finish(lane, EXCHANGE, epoch)
        begun += lane.shape.packets
