"""Reduce-scatter: the sum of every PE's elements, a part to each PE. `_block`, `_grid`: see all_reduce.py."""

from .backend import block_index, function, grid_size
from .exchange import parts_of
from .rounds import begin_turn, count_turns, end_turn, enter, is_left, receive_sum, send_to_each
from .work import goes_in_lines, share


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
    given = parts_of(kind, source, start, count, lane.shape.pes * count)
    taken = parts_of(kind, target, to, count, count)
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
        send_to_each(lane, kind, epoch, work, begun, given)
        receive_sum(lane, kind, epoch, work, begun, taken)
        turn = end_turn(lane, epoch, turn)
    count_turns(lane, turn)
