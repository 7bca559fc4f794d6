"""Reduce-scatter: the sum of every PE's elements, a part to each PE. `_block`, `_grid`: see all_reduce.py."""

from .backend import block_index, block_size, function, grid_size, local, thread_index, uint32
from .communicator import FIRST, begin, divide_up, finish, share
from .element import elements_of_packet, store_elements, sum_of_data
from .exchange import Parts, collect, deliver, load_part, post


@function
def reduce_scatter_block(comm, kind, source, start, target, to, count):
    """Part r of `source[start:]`, summed, to rank r's `target[to:]` (block).

    count: elements of a part; source has one for each PE, one after another. target: not within source, unless it is
    this PE's own part of it.
    """
    _reduce_scatter(comm, kind, source, start, target, to, count, 0, 1)


@function
def reduce_scatter_grid(comm, kind, source, start, target, to, count):
    """`reduce_scatter_block` by all blocks of the launch (grid)."""
    _reduce_scatter(comm, kind, source, start, target, to, count, block_index(), grid_size())


@function
def _reduce_scatter(comm, kind, source, start, target, to, count, part, parts):
    each = elements_of_packet(kind)
    data = local(comm.shape.pes_twice, uint32)
    given = Parts(source, start, count, comm.shape.pes * count)
    first, last = share(divide_up(count, each), part, parts)
    for at in range(first, last, comm.shape.packets):
        packets = min(comm.shape.packets, last - at)
        epoch = begin(comm)
        for number in range(thread_index(), packets, block_size()):
            for p in range(comm.shape.pes):
                a, b = load_part(kind, given, p, (at + number) * each)
                post(comm, epoch, FIRST, number, p, a, b)
        deliver(comm, epoch, FIRST, packets, False)
        for number in range(thread_index(), packets, block_size()):
            i = (at + number) * each
            collect(comm, epoch, FIRST, number, data)
            a, b = sum_of_data(kind, data, comm.shape.pes)
            store_elements(kind, target, to + i, count - i, a, b)
        finish(comm, epoch)
