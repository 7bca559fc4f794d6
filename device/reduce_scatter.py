"""Reduce-scatter: the sum of every PE's elements, a part to each PE. `_block`, `_grid`: see all_reduce.py."""

from .backend import block_index, block_size, function, grid_size, local, thread_index, uint32
from .communicator import EXCHANGE, FIRST, Work, begin, count_due, divide_up, finish, is_due, packet_of
from .element import elements_of_packet, store_elements, sum_of_data
from .exchange import Parts, collect, deliver, load_part, post


@function
def reduce_scatter_block(lane, kind, source, start, target, to, count):
    """Part r of `source[start:]`, summed, to rank r's `target[to:]` (block).

    count: elements of a part; source has one for each PE, one after another. target: not within source, unless it is
    this PE's own part of it.
    """
    _reduce_scatter(lane, kind, source, start, target, to, count, 0, 1)


@function
def reduce_scatter_grid(lane, kind, source, start, target, to, count):
    """`reduce_scatter_block` by all blocks of the launch (grid)."""
    _reduce_scatter(lane, kind, source, start, target, to, count, block_index(), grid_size())


@function
def _reduce_scatter(lane, kind, source, start, target, to, count, part, parts):
    each = elements_of_packet(kind)
    data = local(lane.shape.pes_twice, uint32)
    given = Parts(source, start, count, lane.shape.pes * count)
    work, begun = Work(divide_up(count, each), part, parts), 0
    while packet_of(work, begun) < work.packets:
        epoch = begin(lane, EXCHANGE)
        number, packet = thread_index(), packet_of(work, begun + thread_index())
        while is_due(lane, work, number, packet):
            i = packet * each
            for p in range(lane.shape.pes):
                a, b = load_part(kind, given, p, i)
                post(lane, epoch, FIRST, number, p, a, b)
            number += block_size()
            packet = packet_of(work, begun + number)
        deliver(lane, epoch, FIRST, count_due(lane, work, begun), False)
        number, packet = thread_index(), packet_of(work, begun + thread_index())
        while is_due(lane, work, number, packet):
            i = packet * each
            collect(lane, epoch, FIRST, number, data)
            a, b = sum_of_data(kind, data, lane.shape.pes)
            store_elements(kind, target, to + i, count - i, a, b)
            number += block_size()
            packet = packet_of(work, begun + number)
        finish(lane, EXCHANGE, epoch)
        begun += lane.shape.packets
