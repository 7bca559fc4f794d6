"""All-reduce, residual add and RMSNorm of one vector, which every block of a grid then has in its shared memory.

Each cluster hears from all PEs: a block takes its part of the vector from each of them, adds it to its part of the
residual, and shows the sum to the blocks of its cluster. So the second hop, from block to block, does not go through
the L2. What is computed: all_reduce_norm.py.
"""

from .all_reduce_norm import keep_product, load_kept, store_scaled
from .backend import (
    block_index,
    block_size,
    check_vector,
    cluster_rank,
    float32,
    function,
    grid_size,
    load_pair,
    local,
    peer,
    rsqrt,
    store_packet,
    store_pair,
    sync_block,
    thread_index,
    uint32,
)
from .cluster import await_pairs, expect_pairs, next_turn, place_of, send
from .communicator import EXCHANGE, FIRST, SHOWN, begin, close, finish, hidden_place, limits_of, next_epoch, record
from .element import add_data, add_words, elements_of_packet, rounded_sums
from .exchange import collect_from, deliver, post_to_all
from .packets import receive_from_all
from .sums import block_sum
from .watch import COLLECTIVE
from .work import count_due, is_due, packet_of, share


@function
def all_reduce_norm_grid(lane, kind, source, start, residual, weight, of, x, count, eps, sums, box, blocks):
    """One vector by all blocks, each of which has the whole result in the end: in its own `x` (grid).

    source: as in `all_reduce_norm_block`; a block reads its share, every `grid_size()`-th run of 8 packets. weight,
    count, eps, sums: as there. residual, x: uint32 in shared memory, at multiples of 8 bytes, two words for each
    packet: of residual those of the block's part (`load_residual`), which each cluster keeps for itself; of x all.
    box: of a pair for each packet (see cluster.py). blocks: of a cluster, a constant.

    At most a block for each 8 packets of the vector, at most `hidden_packets` of the communicator, and as many blocks
    in every call with it.
    """
    check_vector(count <= lane.shape.hidden_packets * elements_of_packet(kind))
    weights, products = local(lane.shape.kept_words, uint32), local(lane.shape.kept_values, float32)
    inverse, shown, whole = float32(1) / float32(count), next_epoch(lane, SHOWN), share(kind, count, 0, 1, False)
    share_out(lane, kind, source, start, share(kind, count, block_index(), grid_size(), False), shown)
    expect_pairs(box, whole.packets)
    load_kept(lane, kind, weight, of, whole, weights)
    record(lane, SHOWN, shown)
    send_part(lane, kind, residual, box, part_of(kind, count, blocks), shown, blocks)
    await_pairs(lane, box)
    squares = block_sum(lane, take_hidden(lane, kind, box, whole.packets, weights, products), sums)
    store_scaled(lane, kind, whole, products, rsqrt(squares * inverse + eps), x, 0, 2)
    close(lane, SHOWN, shown)
    next_turn(box)


@function
def part_of(kind, count, blocks):
    """Which packets of a vector are those of the block in its cluster (block)."""
    return share(kind, count, cluster_rank(), blocks, False)


@function
def load_residual(kind, array, at, count, blocks, part):
    """The block's part of a vector, `count` elements from array[at] on, into `part` in shared memory (block).

    For `all_reduce_norm_grid`. part: uint32, two words for each of its packets.
    """
    work, number = part_of(kind, count, blocks), thread_index()
    while packet_of(work, number) < work.packets:
        a, b = load_pair(array, at + packet_of(work, number) * elements_of_packet(kind))
        store_pair(part, 2 * number, a, b)
        number += block_size()


@function
def store_residual(kind, array, at, count, blocks, part):
    """The reverse of `load_residual`."""
    work, number = part_of(kind, count, blocks), thread_index()
    while packet_of(work, number) < work.packets:
        a, b = load_pair(part, 2 * number)
        store_pair(array, at + packet_of(work, number) * elements_of_packet(kind), a, b)
        number += block_size()


@function
def share_out(lane, kind, source, start, work, shown):
    """The block's share of source to every PE, for all of its blocks to read (block)."""
    if lane.shape.put:
        pass_on(lane, kind, source, start, work, shown)
    else:
        tag = uint32(shown)
        sync_block()
        for k in range(lane.shape.kept):  # straight code: a loop would let warps that have no packet go first
            packet = packet_of(work, thread_index() + k * block_size())
            if packet < work.packets:
                at = hidden_place(lane, shown, lane.rank, packet)
                a, b = load_pair(source, start + packet * elements_of_packet(kind))
                for p in range(lane.shape.pes):
                    store_packet(peer(lane.hidden, lane.distances[p]), at, a, tag, b, tag)


@function
def pass_on(lane, kind, source, start, work, shown):
    """`share_out` by puts, to the same lane of every PE; what comes to this one goes on to its blocks (block)."""
    begun, tag = 0, uint32(shown)
    while packet_of(work, begun) < work.packets:
        epoch, number = begin(lane, EXCHANGE), thread_index()
        while is_due(lane, work, begun, number):
            a, b = load_pair(source, start + packet_of(work, begun + number) * elements_of_packet(kind))
            post_to_all(lane, epoch, FIRST, number, a, b)
            number += block_size()
        deliver(lane, epoch, FIRST, count_due(lane, work, begun), True)
        number = thread_index()
        while is_due(lane, work, begun, number):
            for p in range(lane.shape.pes):
                a, b = collect_from(lane, epoch, FIRST, number, p)
                at = hidden_place(lane, shown, p, packet_of(work, begun + number))
                store_packet(lane.hidden, at, a, tag, b, tag)
            number += block_size()
        finish(lane, EXCHANGE, epoch)
        begun += lane.shape.packets


@function
def send_part(lane, kind, residual, box, work, shown, blocks):
    """The block's part of the PEs' vectors summed, added into residual and sent to the cluster (block)."""
    data, sums, limits = local(lane.shape.pes_twice, uint32), local(4, uint32), limits_of(lane)
    step, number = 4 * lane.shape.hidden_packets, thread_index()
    while packet_of(work, number) < work.packets:
        packet = packet_of(work, number)
        first, second = load_pair(residual, 2 * number)
        at = hidden_place(lane, shown, 0, packet)
        receive_from_all(lane.shape, lane.hidden, at, step, uint32(shown), data, limits, COLLECTIVE)
        add_data(kind, data, lane.shape.pes, sums)
        add_words(kind, first, second, sums)
        first, second = rounded_sums(kind, sums)
        send(box, packet, blocks, first, second)
        store_pair(residual, 2 * number, first, second)
        number += block_size()


@function
def take_hidden(lane, kind, box, packets, weights, products):
    """The thread's packets of what came to the box, times weights; returns their squares' sum (thread)."""
    squares = float32(0)
    for k in range(lane.shape.kept):
        packet, first, second = thread_index() + k * block_size(), uint32(0), uint32(0)
        if packet < packets:
            first, second = load_pair(box.words, place_of(box, packet))
        squares += keep_product(kind, k, first, second, weights, products)
    return squares
