"""What a collective's exchange is made of: a block's packets sent, and received as a sum or as parts (all block).

kind: of element.py. work, begun: the block's packets of the message, of which the exchange takes those from number
`begun` on. A message for all, or a result of one's own, is part 0 of `Parts` that have one.
"""

from .backend import block_size, function, local, thread_index, uint32
from .communicator import FIRST, count_due, is_due, packet_of
from .element import elements_of_packet, sum_of_data
from .exchange import collect, deliver, load_part, post, post_to_all, store_part


@function
def send_to_all(lane, kind, epoch, work, begun, source):
    """Part 0 of source to every PE."""
    each = elements_of_packet(kind)
    number, packet = thread_index(), packet_of(work, begun + thread_index())
    while is_due(lane, work, number, packet):
        a, b = load_part(kind, source, 0, packet * each)
        post_to_all(lane, epoch, FIRST, number, a, b)
        number += block_size()
        packet = packet_of(work, begun + number)
    deliver(lane, epoch, FIRST, count_due(lane, work, begun), True)


@function
def send_to_each(lane, kind, epoch, work, begun, source):
    """Part p of source to rank p."""
    each = elements_of_packet(kind)
    number, packet = thread_index(), packet_of(work, begun + thread_index())
    while is_due(lane, work, number, packet):
        for p in range(lane.shape.pes):
            a, b = load_part(kind, source, p, packet * each)
            post(lane, epoch, FIRST, number, p, a, b)
        number += block_size()
        packet = packet_of(work, begun + number)
    deliver(lane, epoch, FIRST, count_due(lane, work, begun), False)


@function
def receive_sum(lane, kind, epoch, work, begun, target):
    """What all PEs sent, summed in their order, to part 0 of target."""
    each, data = elements_of_packet(kind), local(lane.shape.pes_twice, uint32)
    number, packet = thread_index(), packet_of(work, begun + thread_index())
    while is_due(lane, work, number, packet):
        collect(lane, epoch, FIRST, number, data)
        a, b = sum_of_data(kind, data, lane.shape.pes)
        store_part(kind, target, 0, packet * each, a, b)
        number += block_size()
        packet = packet_of(work, begun + number)


@function
def receive_from_each(lane, kind, epoch, phase, work, begun, target):
    """What rank p sent in this phase, to part p of target."""
    each, data = elements_of_packet(kind), local(lane.shape.pes_twice, uint32)
    number, packet = thread_index(), packet_of(work, begun + thread_index())
    while is_due(lane, work, number, packet):
        collect(lane, epoch, phase, number, data)
        for p in range(lane.shape.pes):
            store_part(kind, target, p, packet * each, data[2 * p], data[2 * p + 1])
        number += block_size()
        packet = packet_of(work, begun + number)
