"""All-gather: every PE's elements, in the order of the PEs, on every PE. `_block`, `_grid`: see all_reduce.py."""

from .backend import block_index, block_size, function, grid_size, local, thread_index, uint32
from .communicator import FIRST, begin, divide_up, finish, share
from .element import elements_of_packet, load_elements
from .exchange import Parts, collect, deliver, post_to_all, store_part


@function
def all_gather_block(comm, kind, source, start, target, to, count):
    """`source[start : start + count]` of rank r to `target[to + r * count :]` of every PE (block).

    source: not within target, unless it is this PE's own part of it.
    """
    _all_gather(comm, kind, source, start, target, to, count, 0, 1)


@function
def all_gather_grid(comm, kind, source, start, target, to, count):
    """`all_gather_block` by all blocks of the launch (grid)."""
    _all_gather(comm, kind, source, start, target, to, count, block_index(), grid_size())


@function
def _all_gather(comm, kind, source, start, target, to, count, part, parts):
    each = elements_of_packet(kind)
    data = local(comm.shape.pes_twice, uint32)
    gathered = Parts(target, to, count, comm.shape.pes * count)
    first, last = share(divide_up(count, each), part, parts)
    for at in range(first, last, comm.shape.packets):
        packets = min(comm.shape.packets, last - at)
        epoch = begin(comm)
        for number in range(thread_index(), packets, block_size()):
            i = (at + number) * each
            a, b = load_elements(kind, source, start + i, count - i)
            post_to_all(comm, epoch, FIRST, number, a, b)
        deliver(comm, epoch, FIRST, packets, True)
        for number in range(thread_index(), packets, block_size()):
            collect(comm, epoch, FIRST, number, data)
            for p in range(comm.shape.pes):
                store_part(kind, gathered, p, (at + number) * each, data[2 * p], data[2 * p + 1])
        finish(comm, epoch)
