"""Broadcast: one PE's elements on every PE. `_block`, `_grid`: see all_reduce.py."""

from .backend import block_index, function, grid_size
from .communicator import FIRST
from .exchange import await_greetings, deliver, greet, parts_of
from .rounds import begin_turn, count_turns, end_turn, enter, is_left, receive_from_one, send_to_all
from .work import goes_in_lines, share


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
    given, taken = parts_of(kind, source, start, count, count), parts_of(kind, target, to, count, count)
    if goes_in_lines(lane, kind, count):
        _exchange(lane, kind, given, taken, root, share(kind, count, part, parts, True))
    else:
        _exchange(lane, kind, given, taken, root, share(kind, count, part, parts, False))


@function
def _exchange(lane, kind, given, taken, root, work):
    enter(lane)
    turn = 0
    while is_left(lane, work, turn):
        epoch, begun = begin_turn(lane, work, turn)
        greet(lane, epoch)
        if lane.rank == root:
            send_to_all(lane, kind, epoch, work, begun, given)
        else:
            deliver(lane, epoch, FIRST, 0, True)  # with puts, every PE hears from every other
        receive_from_one(lane, kind, epoch, work, begun, root, taken)
        await_greetings(lane, epoch)
        turn = end_turn(lane, epoch, turn)
    count_turns(lane, turn)
