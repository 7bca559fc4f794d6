"""What a collective's exchange is made of: a block's packets sent, received as a sum or as parts, sent on (all block).

kind: of element.py. work, begun: the block's packets of the message, of which the exchange takes those from number
`begun` on. A message for all, or a result of one's own, is part 0 of `Parts` that have one.
"""

from . import exchange, lines
from .backend import (
    block_size,
    function,
    local,
    start_next_kernel,
    sync_block,
    thread_index,
    uint32,
    wait_for_prior_kernel,
)
from .communicator import EXCHANGE, FIRST, SECOND, begin, read_epochs, record
from .element import elements_of_packet, sum_of_data
from .exchange import deliver, load_part, store_part
from .work import capacity, count_due, is_due, packet_of


@function
def enter(lane):
    """Before a collective reads any memory: where its lane says so, waits for the kernel before this one (block).

    Then it reads the lane's epochs: its own `sync_block` must follow before it records one.
    """
    if lane.wait:
        wait_for_prior_kernel()
        start_next_kernel()
        read_epochs(lane)


# --- a message in turns, an exchange each ---


@function
def is_left(lane, work, turn):
    """Whether there is a turn of this number: the block's packets of the message are more than those before it."""
    return packet_of(work, turn * capacity(lane, work)) < work.packets


@function
def begin_turn(lane, work, turn):
    """(its epoch, the number of its first packet); the lane's own epoch is the first turn's until `count_turns`."""
    return begin(lane, EXCHANGE) + turn, turn * capacity(lane, work)


@function
def end_turn(lane, epoch, turn):
    """Once its data are read; returns the next turn's number."""
    sync_block()
    record(lane, EXCHANGE, epoch)
    return turn + 1


@function
def count_turns(lane, turns):
    """The lane goes on by the epochs of so many turns.

    Had each turn changed the lane's epoch, a loop would wait for it to come before anything else is loaded.
    """
    lane.epoch_of[EXCHANGE] += turns


# --- a turn's packets ---


@function
def send_to_all(lane, kind, epoch, work, begun, source):
    """Part 0 of source to every PE."""
    each, number = elements_of_packet(kind), thread_index()
    while is_due(lane, work, begun, number):
        a, b = load_part(kind, source, 0, packet_of(work, begun + number) * each)
        post_to_all(lane, work, epoch, FIRST, number, a, b)
        number += block_size()
    deliver(lane, epoch, FIRST, count_due(lane, work, begun), True)


@function
def send_to_each(lane, kind, epoch, work, begun, source):
    """Part p of source to rank p."""
    each, number = elements_of_packet(kind), thread_index()
    while is_due(lane, work, begun, number):
        for p in range(lane.shape.pes):
            a, b = load_part(kind, source, p, packet_of(work, begun + number) * each)
            post(lane, work, epoch, FIRST, number, p, a, b)
        number += block_size()
    deliver(lane, epoch, FIRST, count_due(lane, work, begun), False)


@function
def receive_sum(lane, kind, epoch, work, begun, target):
    """What all PEs sent, summed in their order, to part 0 of target."""
    each, number, data = elements_of_packet(kind), thread_index(), local(lane.shape.pes_twice, uint32)
    while is_due(lane, work, begun, number):
        collect(lane, work, epoch, FIRST, number, data)
        a, b = sum_of_data(kind, data, lane.shape.pes)
        store_part(kind, target, 0, packet_of(work, begun + number) * each, a, b)
        number += block_size()


@function
def forward_sum(lane, kind, epoch, work, begun):
    """What all PEs sent, summed in their order, to every PE as the second shot."""
    number, data = thread_index(), local(lane.shape.pes_twice, uint32)
    while is_due(lane, work, begun, number):
        collect(lane, work, epoch, FIRST, number, data)
        a, b = sum_of_data(kind, data, lane.shape.pes)
        post_to_all(lane, work, epoch, SECOND, number, a, b)
        number += block_size()
    deliver(lane, epoch, SECOND, count_due(lane, work, begun), True)


@function
def receive_from_each(lane, kind, epoch, phase, work, begun, target):
    """What rank p sent in this phase, to part p of target."""
    each, number, data = elements_of_packet(kind), thread_index(), local(lane.shape.pes_twice, uint32)
    while is_due(lane, work, begun, number):
        collect(lane, work, epoch, phase, number, data)
        for p in range(lane.shape.pes):
            store_part(kind, target, p, packet_of(work, begun + number) * each, data[2 * p], data[2 * p + 1])
        number += block_size()


@function
def receive_from_one(lane, kind, epoch, work, begun, root, target):
    """What rank `root` sent to all, to part 0 of target."""
    each, number = elements_of_packet(kind), thread_index()
    while is_due(lane, work, begun, number):
        a, b = collect_from(lane, work, epoch, FIRST, number, root)
        store_part(kind, target, 0, packet_of(work, begun + number) * each, a, b)
        number += block_size()


# --- the verbs, as packets for themselves or in lines ---


@function
def post(lane, work, epoch, phase, number, p, first, second):
    if work.in_lines:
        lines.post(lane, epoch, phase, number, p, first, second)
    else:
        exchange.post(lane, epoch, phase, number, p, first, second)


@function
def post_to_all(lane, work, epoch, phase, number, first, second):
    if work.in_lines:
        lines.post_to_all(lane, epoch, phase, number, first, second)
    else:
        exchange.post_to_all(lane, epoch, phase, number, first, second)


@function
def post_to_others(lane, work, epoch, phase, number, first, second):
    if work.in_lines:
        lines.post_to_others(lane, epoch, phase, number, first, second)
    else:
        exchange.post_to_others(lane, epoch, phase, number, first, second)


@function
def collect(lane, work, epoch, phase, number, data):
    if work.in_lines:
        lines.collect(lane, epoch, phase, number, data)
    else:
        exchange.collect(lane, epoch, phase, number, data)


@function
def collect_others(lane, work, epoch, phase, number, first, second, data):
    if work.in_lines:
        lines.collect_others(lane, epoch, phase, number, first, second, data)
    else:
        exchange.collect_others(lane, epoch, phase, number, first, second, data)


@function
def collect_from(lane, work, epoch, phase, number, p):
    if work.in_lines:
        return lines.collect_from(lane, epoch, phase, number, p)
    return exchange.collect_from(lane, epoch, phase, number, p)
