"""All-gather: every PE's elements, in the order of the PEs, on every PE. `_block`, `_grid`: see all_reduce.py."""

from .backend import block_index, function, grid_size
from .communicator import FIRST
from .exchange import parts_of
from .rounds import begin_turn, count_turns, end_turn, enter, is_left, receive_from_each, send_to_all
from .work import goes_in_lines, share


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
    given = parts_of(kind, source, start, count, count)
    taken = parts_of(kind, target, to, count, lane.shape.pes * count)
    if goes_in_lines(lane, kind, count):
        _exchange(lane, kind, given, taken, share(kind, count, part, parts, True))
    else:
        _exchange(lane, kind, given, taken, share(kind, count, part, parts, False))


@function
def _exchange(lane, kind, given, taken, work):
    enter(lane)
    turn = 0
    while is_left(lane, work, turn):
        epoch, begun = begin_turn(lane, work, turn)
        send_to_all(lane, kind, epoch, work, begun, given)
        receive_from_each(lane, kind, epoch, FIRST, work, begun, taken)
        turn = end_turn(lane, epoch, turn)
    count_turns(lane, turn)
