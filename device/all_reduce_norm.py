"""All-reduce, residual add and RMSNorm in one: what stands between two layers' halves.

hidden = residual + the sum over the PEs of source, rounded to the element's kind; residual = hidden; the result is
hidden / sqrt(mean(hidden^2) + eps) * weight (Zhang & Sennrich, 2019). Sums are float32, the PEs' in their order, so
that every PE has the same bits. `_block`: one block does a vector alone, in one hop. `_shares`: all blocks share the
vector, and tell each other the sums of their squares by packets: a second hop, which costs less than a barrier.
`_grid`: they show each other their parts of hidden itself, and each block has the whole result.

A thread keeps its packets of hidden and weight in registers, `lane.shape.kept` at most; weights are asked for before
there is something to wait for. Vectors are whole packets, 8 bytes each, at multiples of 8 bytes.
"""

from .backend import (
    block_index,
    block_size,
    float32,
    function,
    grid_size,
    lane_index,
    load_pair,
    local,
    rsqrt,
    store_packet,
    store_pair,
    sync_block,
    thread_index,
    uint32,
)
from .communicator import (
    EXCHANGE,
    FIRST,
    SHOWN,
    advance,
    begin,
    count_due,
    finish,
    is_due,
    limits_of,
    next_epoch,
    packet_of,
    share,
)
from .element import (
    add_data,
    add_words,
    elements_of_packet,
    rounded_sums,
    scale_words,
    square_of_words,
)
from .exchange import collect_others, deliver, post_to_others
from .packets import BATCH, BATCH_WORDS, receive_batch, wait_for_packet
from .sums import block_sum, grid_sum
from .watch import HIDDEN


@function
def all_reduce_norm_block(lane, kind, source, start, residual, at, weight, of, target, to, count, eps, sums):
    """One vector, all of it by the calling block (block).

    source, residual, weight, target: `count` elements of `kind` (not INT32) from start, at, of and to on; target may be
    source. count: whole packets, at most `lane.shape.kept` a thread. eps: float32. sums: float32 [warps of the block]
    in shared memory.
    """
    hidden, weights = local(lane.shape.kept_words, uint32), local(lane.shape.kept_words, uint32)
    work, inverse = share(kind, count, 0, 1, False), float32(1) / float32(count)
    load_kept(lane, kind, weight, of, work, weights)
    squares = block_sum(lane, add_share(lane, kind, source, start, residual, at, work, hidden), sums)
    store_scaled(lane, kind, work, hidden, weights, rsqrt(squares * inverse + eps), target, to)
    sync_block()


@function
def all_reduce_norm_shares(lane, kind, source, start, residual, at, weight, of, target, to, count, eps, sums):
    """`all_reduce_norm_block` by all blocks, each of which does a share: of target, too (grid).

    They tell each other a number each, the sum of their squares. count: as there, of a block's share. At most a block
    for each 8 packets of the vector, and as many in every call with this communicator.
    """
    hidden, weights = local(lane.shape.kept_words, uint32), local(lane.shape.kept_words, uint32)
    work, inverse = share(kind, count, block_index(), grid_size(), False), float32(1) / float32(count)
    load_kept(lane, kind, weight, of, work, weights)
    squares = block_sum(lane, add_share(lane, kind, source, start, residual, at, work, hidden), sums)
    squares = grid_sum(lane, squares)
    store_scaled(lane, kind, work, hidden, weights, rsqrt(squares * inverse + eps), target, to)
    finish(lane, SHOWN, next_epoch(lane, SHOWN))


@function
def all_reduce_norm_grid(lane, kind, source, start, residual, at, weight, of, x, count, eps, sums):
    """One vector by all blocks, each of which has the whole result in the end: in its own `x` (grid).

    As `all_reduce_norm_block`, but x: uint32 in shared memory, the elements' bits, two words for each packet. Each
    block adds its share into residual. At most a block for each 8 packets of the vector, and as many in every call with
    this communicator.
    """
    hidden, weights = local(lane.shape.kept_words, uint32), local(lane.shape.kept_words, uint32)
    begun, inverse = 0, float32(1) / float32(count)
    work, all = share(kind, count, block_index(), grid_size(), False), share(kind, count, 0, 1, False)
    load_kept(lane, kind, weight, of, all, weights)
    while packet_of(work, begun) < work.packets:
        if begun > 0:
            finish(lane, EXCHANGE, next_epoch(lane, EXCHANGE))
        share_hidden(lane, kind, source, start, residual, at, work, begun)
        begun += lane.shape.packets
    squares = block_sum(lane, receive_hidden(lane, kind, work.packets, hidden), sums)
    advance(lane, EXCHANGE, next_epoch(lane, EXCHANGE))
    factor = rsqrt(squares * inverse + eps)
    for k in range(lane.shape.kept):
        number = thread_index() + k * block_size()
        if number < work.packets:
            a, b = scale_words(kind, hidden[2 * k], hidden[2 * k + 1], weights[2 * k], weights[2 * k + 1], factor)
            x[2 * number], x[2 * number + 1] = a, b
    finish(lane, SHOWN, next_epoch(lane, SHOWN))


@function
def load_kept(lane, kind, array, start, work, words):
    """The thread's packets of an array into `words` (thread)."""
    each = elements_of_packet(kind)
    for k in range(lane.shape.kept):
        packet = packet_of(work, thread_index() + k * block_size())
        if packet < work.packets:
            words[2 * k], words[2 * k + 1] = load_pair(array, start + packet * each)


@function
def add_share(lane, kind, source, start, residual, at, work, hidden):
    """The block's packets exchanged and added into residual, the thread's into `hidden`; their squares' sum (block)."""
    each, begun, squares = elements_of_packet(kind), 0, float32(0)
    while packet_of(work, begun) < work.packets:
        epoch, end = begin(lane, EXCHANGE), begun + lane.shape.packets
        for k in range(lane.shape.kept):
            number = thread_index() + k * block_size()
            packet = packet_of(work, number)
            if begun <= number < end and packet < work.packets:
                a, b = load_pair(source, start + packet * each)
                hidden[2 * k], hidden[2 * k + 1] = a, b
                post_to_others(lane, epoch, FIRST, number - begun, a, b)
        deliver(lane, epoch, FIRST, count_due(lane, work, begun), True)
        for k in range(lane.shape.kept):
            number = thread_index() + k * block_size()
            packet = packet_of(work, number)
            if begun <= number < end and packet < work.packets:
                a, b = hidden[2 * k], hidden[2 * k + 1]
                a, b = add_residual(lane, kind, epoch, number - begun, a, b, residual, at + packet * each)
                squares += square_of_words(kind, a, b)
                hidden[2 * k], hidden[2 * k + 1] = a, b
        finish(lane, EXCHANGE, epoch)
        begun = end
    return squares


@function
def store_scaled(lane, kind, work, hidden, weights, factor, target, to):
    """The thread's packets of hidden, times factor and weights, to target (thread)."""
    each = elements_of_packet(kind)
    for k in range(lane.shape.kept):
        packet = packet_of(work, thread_index() + k * block_size())
        if packet < work.packets:
            a, b = scale_words(kind, hidden[2 * k], hidden[2 * k + 1], weights[2 * k], weights[2 * k + 1], factor)
            store_pair(target, to + packet * each, a, b)


@function
def add_residual(lane, kind, epoch, number, first, second, residual, i):
    """Packet `number` of the exchange, of which this PE posted first and second, summed into residual from element `i`
    on; returns its words there (thread)."""
    data, sums = local(lane.shape.pes_twice, uint32), local(4, uint32)
    a, b = load_pair(residual, i)
    collect_others(lane, epoch, FIRST, number, first, second, data)
    add_data(kind, data, lane.shape.pes, sums)
    add_words(kind, a, b, sums)
    a, b = rounded_sums(kind, sums)
    store_pair(residual, i, a, b)
    return a, b


@function
def share_hidden(lane, kind, source, start, residual, at, work, begun):
    """An exchange of the block's packets, added into residual and shown to all blocks of this PE (block).

    The caller ends the exchange.
    """
    each = elements_of_packet(kind)
    epoch, shown = begin(lane, EXCHANGE), next_epoch(lane, SHOWN)
    number = thread_index()
    while is_due(lane, work, begun, number):
        a, b = load_pair(source, start + packet_of(work, begun + number) * each)
        post_to_others(lane, epoch, FIRST, number, a, b)
        number += block_size()
    deliver(lane, epoch, FIRST, count_due(lane, work, begun), True)
    number = thread_index()
    while is_due(lane, work, begun, number):
        packet = packet_of(work, begun + number)
        a, b = load_pair(source, start + packet * each)
        a, b = add_residual(lane, kind, epoch, number, a, b, residual, at + packet * each)
        word = 4 * ((shown & 1) * lane.shape.hidden_packets + packet)
        store_packet(lane.hidden, word, a, uint32(shown), b, uint32(shown))
        number += block_size()


@function
def receive_hidden(lane, kind, packets, hidden):
    """The thread's packets of what all blocks showed, into `hidden`; returns their squares' sum (block)."""
    data, limits, epoch = local(BATCH_WORDS, uint32), limits_of(lane), next_epoch(lane, SHOWN)
    at = 4 * (epoch & 1) * lane.shape.hidden_packets
    squares = float32(0)
    for turn in range(lane.shape.kept // BATCH):
        first = thread_index() + turn * BATCH * block_size()
        if first - lane_index() < packets:
            wait_for_packet(lane.hidden, at + 4 * (first - lane_index()), uint32(epoch), limits, HIDDEN)
        if first < packets:
            receive_batch(lane.hidden, at, first, block_size(), packets, uint32(epoch), data, limits, HIDDEN, 0)
            for b in range(BATCH):
                if first + b * block_size() < packets:
                    k = turn * BATCH + b
                    hidden[2 * k], hidden[2 * k + 1] = data[2 * b], data[2 * b + 1]
                    squares += square_of_words(kind, data[2 * b], data[2 * b + 1])
    return squares
