"""Broadcast: one PE's elements on every PE. `_block`, `_grid`: see all_reduce.py."""

from .backend import block_index, block_size, function, grid_size, thread_index
from .communicator import FIRST, begin, divide_up, finish, share
from .element import elements_of_packet, load_elements, store_elements
from .exchange import await_greetings, collect_from, deliver, greet, post_to_all


@function
def broadcast_block(comm, kind, source, start, target, to, count, root):
    """`source[start : start + count]` of rank `root` to `target[to:]` of every PE, its own too (block).

    source is read on the root alone; it may be the target.
    """
    _broadcast(comm, kind, source, start, target, to, count, root, 0, 1)


@function
def broadcast_grid(comm, kind, source, start, target, to, count, root):
    """`broadcast_block` by all blocks of the launch (grid)."""
    _broadcast(comm, kind, source, start, target, to, count, root, block_index(), grid_size())


@function
def _broadcast(comm, kind, source, start, target, to, count, root, part, parts):
    each = elements_of_packet(kind)
    first, last = share(divide_up(count, each), part, parts)
    for at in range(first, last, comm.shape.packets):
        packets = min(comm.shape.packets, last - at)
        epoch = begin(comm)
        greet(comm, epoch)
        if comm.rank == root:
            for number in range(thread_index(), packets, block_size()):
                i = (at + number) * each
                a, b = load_elements(kind, source, start + i, count - i)
                post_to_all(comm, epoch, FIRST, number, a, b)
        deliver(comm, epoch, FIRST, packets if comm.rank == root else 0, True)
        for number in range(thread_index(), packets, block_size()):
            i = (at + number) * each
            a, b = collect_from(comm, epoch, FIRST, number, root)
            store_elements(kind, target, to + i, count - i, a, b)
        await_greetings(comm, epoch)
        finish(comm, epoch)
