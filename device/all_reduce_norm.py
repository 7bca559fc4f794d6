"""All-reduce, residual add and RMSNorm in one: what stands between two layers' halves.

hidden = residual + the sum over the PEs of source, rounded to the element's kind; residual = hidden; the result is
hidden / sqrt(mean(hidden^2) + eps) * weight (Zhang & Sennrich, 2019). Sums are float32, the PEs' in their order, so
that every PE has the same bits. `_block`: one block does a vector alone. `_cluster`: the blocks of a cluster share it,
and tell each other the sums of their squares. A whole grid: all_reduce_norm_grid.py.

A thread keeps its packets of hidden times weight in registers, `lane.shape.kept` at most. Weights are asked for while
the PEs' data are on their way. Vectors are whole packets, 8 bytes each, at multiples of 8 bytes.
"""

from .backend import (
    block_size,
    check_vector,
    cluster_rank,
    float32,
    function,
    load_pair,
    local,
    rsqrt,
    store_pair,
    sync_block,
    thread_index,
    uint32,
)
from .cluster import cluster_sum, next_turn
from .communicator import EXCHANGE, FIRST, close, next_epoch, record
from .element import add_data, add_words, elements_of_packet, rounded_sums, values_of, words_of
from .exchange import collect_others, deliver, parts_of, post_to_others
from .sums import block_sum
from .work import count_due, packet_of, share


@function
def all_reduce_norm_block(lane, kind, source, start, residual, at, weight, of, target, to, count, eps, sums):
    """One vector, all of it by the calling block (block).

    source, residual, weight, target: `count` elements of `kind` (not INT32) from start, at, of and to on; target may be
    source. count: whole packets, at most `lane.shape.kept` a thread. eps: float32. sums: float32 [warps of the block,
    at least 8] in shared memory, at a multiple of 16 bytes.
    """
    check_vectors(lane, kind, count, source, start, residual, at, weight, of, target, to)
    products, work = local(lane.shape.kept_values, float32), share(kind, count, 0, 1, False)
    inverse = float32(1) / float32(count)
    squares = add_share(lane, kind, source, start, residual, at, weight, of, work, products)
    squares = block_sum(lane, squares, sums)
    store_scaled(lane, kind, work, products, rsqrt(squares * inverse + eps), target, to, elements_of_packet(kind))
    sync_block()


@function
def all_reduce_norm_cluster(
    lane, kind, source, start, residual, at, weight, of, target, to, count, eps, sums, box, blocks
):
    """`all_reduce_norm_block` by the blocks of a cluster, each of which does a share: of target, too (cluster).

    count: as there, of a block's share. box: of `blocks` pairs (see cluster.py). blocks: of a cluster, a constant.
    """
    check_vectors(lane, kind, count, source, start, residual, at, weight, of, target, to)
    products, work = local(lane.shape.kept_values, float32), share(kind, count, cluster_rank(), blocks, False)
    inverse = float32(1) / float32(count)
    squares = add_share(lane, kind, source, start, residual, at, weight, of, work, products)
    squares = cluster_sum(lane, box, block_sum(lane, squares, sums), blocks)
    store_scaled(lane, kind, work, products, rsqrt(squares * inverse + eps), target, to, elements_of_packet(kind))
    sync_block()
    next_turn(box)


@function
def check_vectors(lane, kind, count, source, start, residual, at, weight, of, target, to):
    """Tells of errors of the caller in the emulator; on a GPU nothing, and costs nothing (thread)."""
    each = elements_of_packet(kind)
    check_vector(count <= lane.shape.hidden_packets * each and (count | start | at | of | to) & (each - 1) == 0)
    parts_of(kind, source, start, count, count)
    parts_of(kind, residual, at, count, count)
    parts_of(kind, weight, of, count, count)
    parts_of(kind, target, to, count, count)


@function
def load_kept(lane, kind, array, start, work, words):
    """The thread's packets of an array into `words` (thread)."""
    each = elements_of_packet(kind)
    for k in range(lane.shape.kept):
        packet = packet_of(work, thread_index() + k * block_size())
        if packet < work.packets:
            words[2 * k], words[2 * k + 1] = load_pair(array, start + packet * each)


@function
def keep_product(kind, k, first, second, weights, products):
    """The thread's packet `k` of hidden, first and second, times its weights; returns its squares' sum (thread)."""
    a, b, c, d = values_of(kind, first, second)
    p, q, r, s = values_of(kind, weights[2 * k], weights[2 * k + 1])
    products[4 * k], products[4 * k + 1], products[4 * k + 2], products[4 * k + 3] = a * p, b * q, c * r, d * s
    return a * a + b * b + (c * c + d * d)


@function
def add_share(lane, kind, source, start, residual, at, weight, of, work, products):
    """The block's packets exchanged and added into residual, the thread's times weight; their squares' sum (block).

    Each array is loaded at once, source before the epoch is needed: one memory latency for all of a thread's packets.
    """
    posted, added = local(lane.shape.kept_words, uint32), local(lane.shape.kept_words, uint32)
    weights, squares = local(lane.shape.kept_words, uint32), float32(0)
    each, begun = elements_of_packet(kind), 0
    sync_block()
    load_kept(lane, kind, source, start, work, posted)
    while packet_of(work, begun) < work.packets:
        epoch, end = next_epoch(lane, EXCHANGE), begun + lane.shape.packets
        for k in range(lane.shape.kept):
            number = thread_index() + k * block_size()
            if begun <= number < end and packet_of(work, number) < work.packets:
                post_to_others(lane, epoch, FIRST, number - begun, posted[2 * k], posted[2 * k + 1])
        deliver(lane, epoch, FIRST, count_due(lane, work, begun), True)
        record(lane, EXCHANGE, epoch)
        if begun == 0:
            load_kept(lane, kind, residual, at, work, added)
            load_kept(lane, kind, weight, of, work, weights)
        for k in range(lane.shape.kept):
            number, n = thread_index() + k * block_size(), 2 * k
            packet = packet_of(work, number)
            if begun <= number < end and packet < work.packets:
                own, old = (posted[n], posted[n + 1]), (added[n], added[n + 1])
                a, b = add_to(lane, kind, epoch, number - begun, own, old)
                store_pair(residual, at + packet * each, a, b)
                squares += keep_product(kind, k, a, b, weights, products)
        close(lane, EXCHANGE, epoch)
        begun = end
    return squares


@function
def store_scaled(lane, kind, work, products, factor, target, to, each):
    """The thread's packets of products, times factor, to target, of whose elements a packet makes `each` (thread)."""
    for k in range(lane.shape.kept):
        packet, n = packet_of(work, thread_index() + k * block_size()), 4 * k
        a, b, c, d = products[n], products[n + 1], products[n + 2], products[n + 3]
        first, second = words_of(kind, a * factor, b * factor, c * factor, d * factor)
        if packet < work.packets:
            store_pair(target, to + packet * each, first, second)


@function
def add_to(lane, kind, epoch, number, own, old):
    """The words of the exchange's packet `number`, of which this PE posted `own`, summed and added to `old`."""
    data, sums = local(lane.shape.pes_twice, uint32), local(4, uint32)
    collect_others(lane, epoch, FIRST, number, own[0], own[1], data)
    add_data(kind, data, lane.shape.pes, sums)
    add_words(kind, old[0], old[1], sums)
    return rounded_sums(kind, sums)
