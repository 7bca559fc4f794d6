"""Broadcast: one PE's elements on every PE. `_block`, `_grid`: see all_reduce.py."""

from .backend import block_index, block_size, function, grid_size, thread_index
from .communicator import EXCHANGE, FIRST, Work, begin, count_due, divide_up, finish, is_due, packet_of
from .element import elements_of_packet, load_elements, store_elements
from .exchange import await_greetings, collect_from, deliver, greet, post_to_all


@function
def broadcast_block(lane, kind, source, start, target, to, count, root):
    """`source[start : start + count]` of rank `root` to `target[to:]` of every PE, its own too (block).

    source is read on the root alone; it may be the target.
    """
    _broadcast(lane, kind, source, start, target, to, count, root, 0, 1)


@function
def broadcast_grid(lane, kind, source, start, target, to, count, root):
    """`broadcast_block` by all blocks of the launch (grid)."""
    _broadcast(lane, kind, source, start, target, to, count, root, block_index(), grid_size())


@function
def _broadcast(lane, kind, source, start, target, to, count, root, part, parts):
    each = elements_of_packet(kind)
    work, begun = Work(divide_up(count, each), part, parts), 0
    while packet_of(work, begun) < work.packets:
        epoch = begin(lane, EXCHANGE)
        greet(lane, epoch)
        number, packet = thread_index(), packet_of(work, begun + thread_index())
        while lane.rank == root and is_due(lane, work, number, packet):
            i = packet * each
            a, b = load_elements(kind, source, start + i, count - i)
            post_to_all(lane, epoch, FIRST, number, a, b)
            number += block_size()
            packet = packet_of(work, begun + number)
        deliver(lane, epoch, FIRST, count_due(lane, work, begun) if lane.rank == root else 0, True)
        number, packet = thread_index(), packet_of(work, begun + thread_index())
        while is_due(lane, work, number, packet):
            i = packet * each
            a, b = collect_from(lane, epoch, FIRST, number, root)
            store_elements(kind, target, to + i, count - i, a, b)
            number += block_size()
            packet = packet_of(work, begun + number)
        await_greetings(lane, epoch)
        finish(lane, EXCHANGE, epoch)
        begun += lane.shape.packets
