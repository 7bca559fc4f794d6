"""All-to-all: part p of every PE's elements to rank p. `_block`, `_grid`: see all_reduce.py."""

from .backend import block_index, block_size, function, grid_size, local, thread_index, uint32
from .communicator import FIRST, begin, divide_up, finish, share
from .element import elements_of_packet, load_elements, store_elements
from .exchange import (
    Parts,
    await_greetings,
    collect,
    collect_from,
    deliver,
    greet,
    load_part,
    post,
    store_part,
)


@function
def all_to_all_block(comm, kind, source, start, target, to, count):
    """Part p of `source[start:]` to rank p, whose `target[to:]` has a part of every PE, in their order (block).

    count: elements of a part. source and target do not overlap.
    """
    _all_to_all(comm, kind, source, start, target, to, count, 0, 1)


@function
def all_to_all_grid(comm, kind, source, start, target, to, count):
    """`all_to_all_block` by all blocks of the launch (grid)."""
    _all_to_all(comm, kind, source, start, target, to, count, block_index(), grid_size())


@function
def _all_to_all(comm, kind, source, start, target, to, count, part, parts):
    each = elements_of_packet(kind)
    data = local(comm.shape.pes_twice, uint32)
    given = Parts(source, start, count, comm.shape.pes * count)
    taken = Parts(target, to, count, comm.shape.pes * count)
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
            collect(comm, epoch, FIRST, number, data)
            for p in range(comm.shape.pes):
                store_part(kind, taken, p, (at + number) * each, data[2 * p], data[2 * p + 1])
        finish(comm, epoch)


@function
def all_to_all_v_block(comm, kind, source, starts, counts, target, tos, expected, most):
    """All-to-all with a count for every pair of PEs, as MPI_Alltoallv (block).

    starts, counts: int64 [pes], where in `source` the elements for each PE begin and how many they are; tos, expected:
    int64 [pes], where in `target` those of each PE go and how many they are. most: the largest count of any pair, the
    same on all PEs. source and target do not overlap.
    """
    _all_to_all_v(comm, kind, source, starts, counts, target, tos, expected, most, 0, 1)


@function
def all_to_all_v_grid(comm, kind, source, starts, counts, target, tos, expected, most):
    """`all_to_all_v_block` by all blocks of the launch (grid)."""
    _all_to_all_v(comm, kind, source, starts, counts, target, tos, expected, most, block_index(), grid_size())


@function
def _all_to_all_v(comm, kind, source, starts, counts, target, tos, expected, most, part, parts):
    each = elements_of_packet(kind)
    first, last = share(divide_up(most, each), part, parts)
    for at in range(first, last, comm.shape.packets):
        packets = min(comm.shape.packets, last - at)
        epoch = begin(comm)
        greet(comm, epoch)
        for number in range(thread_index(), packets, block_size()):
            i = (at + number) * each
            for p in range(comm.shape.pes):
                if i < counts[p]:
                    a, b = load_elements(kind, source, starts[p] + i, counts[p] - i)
                    post(comm, epoch, FIRST, number, p, a, b)
        deliver(comm, epoch, FIRST, packets, False)
        for number in range(thread_index(), packets, block_size()):
            i = (at + number) * each
            for p in range(comm.shape.pes):
                if i < expected[p]:
                    a, b = collect_from(comm, epoch, FIRST, number, p)
                    store_elements(kind, target, tos[p] + i, expected[p] - i, a, b)
        await_greetings(comm, epoch)
        finish(comm, epoch)
