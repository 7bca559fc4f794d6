"""All-to-all: part p of every PE's elements to rank p. `_block`, `_grid`: see all_reduce.py."""

from .backend import block_index, block_size, function, grid_size, thread_index
from .communicator import FIRST
from .element import elements_of_packet, load_elements, store_elements
from .exchange import await_greetings, collect_from, deliver, greet, parts_of, post
from .rounds import begin_turn, count_turns, end_turn, enter, is_left, receive_from_each, send_to_each
from .work import Work, count_due, divide_up, goes_in_lines, is_due, packet_of, share


@function
def all_to_all_block(lane, kind, source, start, target, to, count):
    """Part p of `source[start:]` to rank p, whose `target[to:]` has a part of every PE, in their order (block).

    count: elements of a part. source and target do not overlap.
    """
    _all_to_all(lane, kind, source, start, target, to, count, 0, 1)


@function
def all_to_all_grid(lane, kind, source, start, target, to, count):
    """`all_to_all_block` by all blocks of the launch (grid)."""
    _all_to_all(lane, kind, source, start, target, to, count, block_index(), grid_size())


@function
def _all_to_all(lane, kind, source, start, target, to, count, part, parts):
    given = parts_of(kind, source, start, count, lane.shape.pes * count)
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
        send_to_each(lane, kind, epoch, work, begun, given)
        receive_from_each(lane, kind, epoch, FIRST, work, begun, taken)
        turn = end_turn(lane, epoch, turn)
    count_turns(lane, turn)


@function
def all_to_all_v_block(lane, kind, source, starts, counts, target, tos, expected, most):
    """All-to-all with a count for every pair of PEs, as MPI_Alltoallv (block).

    starts, counts: int64 [pes], where in `source` the elements for each PE begin and how many they are; tos, expected:
    int64 [pes], where in `target` those of each PE go and how many they are. most: the largest count of any pair, the
    same on all PEs. source and target do not overlap.
    """
    _all_to_all_v(lane, kind, source, starts, counts, target, tos, expected, most, 0, 1)


@function
def all_to_all_v_grid(lane, kind, source, starts, counts, target, tos, expected, most):
    """`all_to_all_v_block` by all blocks of the launch (grid)."""
    _all_to_all_v(lane, kind, source, starts, counts, target, tos, expected, most, block_index(), grid_size())


@function
def _all_to_all_v(lane, kind, source, starts, counts, target, tos, expected, most, part, parts):
    each = elements_of_packet(kind)
    work, turn = Work(divide_up(most, each), part, parts, False), 0  # a line's threads would take different ways
    enter(lane)
    while is_left(lane, work, turn):
        epoch, begun = begin_turn(lane, work, turn)
        greet(lane, epoch)
        number = thread_index()
        while is_due(lane, work, begun, number):
            i = packet_of(work, begun + number) * each
            for p in range(lane.shape.pes):
                if i < counts[p]:
                    a, b = load_elements(kind, source, starts[p] + i, counts[p] - i)
                    post(lane, epoch, FIRST, number, p, a, b)
            number += block_size()
        deliver(lane, epoch, FIRST, count_due(lane, work, begun), False)
        number = thread_index()
        while is_due(lane, work, begun, number):
            i = packet_of(work, begun + number) * each
            for p in range(lane.shape.pes):
                if i < expected[p]:
                    a, b = collect_from(lane, epoch, FIRST, number, p)
                    store_elements(kind, target, tos[p] + i, expected[p] - i, a, b)
            number += block_size()
        await_greetings(lane, epoch)
        turn = end_turn(lane, epoch, turn)
    count_turns(lane, turn)
