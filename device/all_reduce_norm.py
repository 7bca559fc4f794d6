"""All-reduce, residual add and RMSNorm in one: what stands between two layers' halves.

hidden = residual + the sum over the PEs of source, rounded to the element's kind; residual = hidden; the result is
hidden / sqrt(mean(hidden^2) + eps) * weight (Zhang & Sennrich, 2019). Sums are float32, the PEs' in their order, so
that every PE has the same bits. `_block`: one block does a vector alone, in one hop. `_grid`: all blocks share the
vector, and show each other their parts of hidden by packets: a second hop, which costs less than a barrier.

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
    warp_index,
    warp_size,
    warp_sum,
)
from .communicator import (
    EXCHANGE,
    FIRST,
    SHOWN,
    Work,
    advance,
    begin,
    count_due,
    finish,
    is_due,
    limits_of,
    next_epoch,
    packet_of,
)
from .element import (
    add_data,
    add_words,
    elements_of_packet,
    rounded_sums,
    scale_words,
    square_of_words,
)
from .exchange import collect, deliver, post_to_all
from .packets import BATCH, BATCH_WORDS, receive_batch, wait_for_packet
from .watch import HIDDEN


@function
def all_reduce_norm_block(lane, kind, source, start, residual, at, weight, of, target, to, count, eps, sums):
    """One vector, all of it by the calling block (block).

    source, residual, weight, target: `count` elements of `kind` (not INT32) from start, at, of and to on; target may be
    source. count: whole packets, at most `lane.shape.kept` a thread. eps: float32. sums: float32 [warps of the block]
    in shared memory.
    """
    each = elements_of_packet(kind)
    hidden, weights = local(lane.shape.kept_words, uint32), local(lane.shape.kept_words, uint32)
    packets, begun = count // each, 0
    inverse, squares = float32(1) / float32(count), float32(0)
    load_kept(lane, kind, weight, of, packets, weights)
    while begun < packets:
        epoch, end = begin(lane, EXCHANGE), min(packets, begun + lane.shape.packets)
        for k in range(lane.shape.kept):
            number = thread_index() + k * block_size()
            if begun <= number < end:
                a, b = load_pair(source, start + number * each)
                post_to_all(lane, epoch, FIRST, number - begun, a, b)
        deliver(lane, epoch, FIRST, end - begun, True)
        for k in range(lane.shape.kept):
            number = thread_index() + k * block_size()
            if begun <= number < end:
                a, b = add_residual(lane, kind, epoch, number - begun, residual, at + number * each)
                squares += square_of_words(kind, a, b)
                hidden[2 * k], hidden[2 * k + 1] = a, b
        finish(lane, EXCHANGE, epoch)
        begun += lane.shape.packets
    factor = norm_factor(lane, squares, inverse, eps, sums)
    for k in range(lane.shape.kept):
        number = thread_index() + k * block_size()
        if number < packets:
            a, b = scale_words(kind, hidden[2 * k], hidden[2 * k + 1], weights[2 * k], weights[2 * k + 1], factor)
            store_pair(target, to + number * each, a, b)
    sync_block()


@function
def all_reduce_norm_grid(lane, kind, source, start, residual, at, weight, of, x, count, eps, sums):
    """One vector by all blocks, each of which has the whole result in the end: in its own `x` (grid).

    As `all_reduce_norm_block`, but x: uint32 in shared memory, the elements' bits, two words for each packet. Each
    block adds its share into residual. At most a block for each 8 packets of the vector, and as many in every call with
    this communicator.
    """
    each = elements_of_packet(kind)
    hidden, weights = local(lane.shape.kept_words, uint32), local(lane.shape.kept_words, uint32)
    packets, begun = count // each, 0
    work = Work(packets, block_index(), grid_size(), False)
    inverse = float32(1) / float32(count)
    load_kept(lane, kind, weight, of, packets, weights)
    while packet_of(work, begun) < packets:
        if begun > 0:
            finish(lane, EXCHANGE, next_epoch(lane, EXCHANGE))
        share_hidden(lane, kind, source, start, residual, at, work, begun)
        begun += lane.shape.packets
    squares = receive_hidden(lane, kind, packets, hidden)
    factor = norm_factor(lane, squares, inverse, eps, sums)
    advance(lane, EXCHANGE, next_epoch(lane, EXCHANGE))
    for k in range(lane.shape.kept):
        number = thread_index() + k * block_size()
        if number < packets:
            a, b = scale_words(kind, hidden[2 * k], hidden[2 * k + 1], weights[2 * k], weights[2 * k + 1], factor)
            x[2 * number], x[2 * number + 1] = a, b
    finish(lane, SHOWN, next_epoch(lane, SHOWN))


@function
def load_kept(lane, kind, array, start, packets, words):
    """The thread's packets of an array into `words` (thread)."""
    each = elements_of_packet(kind)
    for k in range(lane.shape.kept):
        number = thread_index() + k * block_size()
        if number < packets:
            words[2 * k], words[2 * k + 1] = load_pair(array, start + number * each)


@function
def add_residual(lane, kind, epoch, number, residual, i):
    """Packet `number` of the exchange summed into residual from element `i` on; returns its words there (thread)."""
    data, sums = local(lane.shape.pes_twice, uint32), local(4, uint32)
    a, b = load_pair(residual, i)
    collect(lane, epoch, FIRST, number, data)
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
        post_to_all(lane, epoch, FIRST, number, a, b)
        number += block_size()
    deliver(lane, epoch, FIRST, count_due(lane, work, begun), True)
    number = thread_index()
    while is_due(lane, work, begun, number):
        packet = packet_of(work, begun + number)
        a, b = add_residual(lane, kind, epoch, number, residual, at + packet * each)
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


@function
def norm_factor(lane, squares, inverse, eps, sums):
    """1 / rms of the vector whose squares' sum the block's threads have parts of; inverse: of its length (block)."""
    squares = warp_sum(squares)
    if lane_index() == 0:
        sums[warp_index()] = squares
    sync_block()
    share = float32(0)
    for turn in range(lane.shape.warp_turns):
        warp = turn * warp_size() + lane_index()
        if warp * warp_size() < block_size():
            share += sums[warp]
    return rsqrt(warp_sum(share) * inverse + eps)
