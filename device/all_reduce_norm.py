"""All-reduce, residual add and RMSNorm in one: what stands between two layers' halves.

hidden = residual + the sum over the PEs of source, rounded to the element's kind; residual = hidden; the result is
hidden / sqrt(mean(hidden^2) + eps) * weight (Zhang & Sennrich, 2019). Sums are float32, the PEs' in their order, so
that every PE has the same bits. `_block`: one block does a vector alone, in one hop. `_grid`: all blocks share the
vector, and tell each other their parts of hidden by packets: a second hop, which costs less than a barrier.
"""

from .backend import (
    block_index,
    block_size,
    float32,
    function,
    grid_size,
    lane_index,
    local,
    rsqrt,
    store_packet,
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
    divide_up,
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
    load_elements,
    rounded_sums,
    scale_words,
    square_of_words,
    store_elements,
)
from .exchange import collect, deliver, post_to_all
from .packets import BATCH, BATCH_WORDS, receive_batch
from .watch import HIDDEN


@function
def all_reduce_norm_block(lane, kind, source, start, residual, at, weight, of, target, to, count, eps, sums):
    """One vector, all of it by the calling block (block).

    source, residual, weight, target: `count` elements of `kind` (not INT32) from start, at, of and to on; target may be
    source. eps: float32. sums: float32 [warps of the block] in shared memory.
    """
    each = elements_of_packet(kind)
    work, begun = Work(divide_up(count, each), 0, 1), 0
    squares = float32(0)
    while begun < work.packets:
        squares += reduce_residual(lane, kind, source, start, residual, at, count, work, begun, False)
        finish(lane, EXCHANGE, next_epoch(lane, EXCHANGE))
        begun += lane.shape.packets
    factor = norm_factor(squares, count, eps, sums)
    begun = 0
    while begun < work.packets:  # each thread its own packets again
        number, packet = thread_index(), packet_of(work, begun + thread_index())
        while is_due(lane, work, number, packet):
            i = packet * each
            a, b = load_elements(kind, residual, at + i, count - i)
            weight_a, weight_b = load_elements(kind, weight, of + i, count - i)
            a, b = scale_words(kind, a, b, weight_a, weight_b, factor)
            store_elements(kind, target, to + i, count - i, a, b)
            number += block_size()
            packet = packet_of(work, begun + number)
        begun += lane.shape.packets
    sync_block()


@function
def all_reduce_norm_grid(lane, kind, source, start, residual, at, weight, of, x, count, eps, sums):
    """One vector by all blocks, each of which has the whole result in the end: in its own `x` (grid).

    As `all_reduce_norm_block`, but x: uint32 in shared memory, the elements' bits, two words for each 8 bytes begun.
    Each block adds its share into residual. At most a block for each 64 bytes of the vector, and as many in every call
    with this communicator.
    """
    each = elements_of_packet(kind)
    packets = divide_up(count, each)
    work, begun = Work(packets, block_index(), grid_size()), 0
    while packet_of(work, begun) < packets:
        if begun > 0:
            finish(lane, EXCHANGE, next_epoch(lane, EXCHANGE))
        reduce_residual(lane, kind, source, start, residual, at, count, work, begun, True)
        begun += lane.shape.packets
    squares = receive_hidden(lane, kind, packets, x)
    factor = norm_factor(squares, count, eps, sums)
    advance(lane, EXCHANGE, next_epoch(lane, EXCHANGE))
    number = thread_index()
    while number < packets:
        weight_a, weight_b = load_elements(kind, weight, of + number * each, count - number * each)
        a, b = scale_words(kind, x[2 * number], x[2 * number + 1], weight_a, weight_b, factor)
        x[2 * number], x[2 * number + 1] = a, b
        number += block_size()
    finish(lane, SHOWN, next_epoch(lane, SHOWN))


@function
def reduce_residual(lane, kind, source, start, residual, at, count, work, begun, show):
    """An exchange's packets of the sum into residual; the thread's share of their squares' sum (block).

    The caller ends the exchange. show: let all blocks of this PE know what residual is now.
    """
    each = elements_of_packet(kind)
    data, sums = local(lane.shape.pes_twice, uint32), local(4, uint32)
    squares = float32(0)
    epoch, shown = begin(lane, EXCHANGE), next_epoch(lane, SHOWN)
    number, packet = thread_index(), packet_of(work, begun + thread_index())
    while is_due(lane, work, number, packet):
        i = packet * each
        a, b = load_elements(kind, source, start + i, count - i)
        post_to_all(lane, epoch, FIRST, number, a, b)
        number += block_size()
        packet = packet_of(work, begun + number)
    deliver(lane, epoch, FIRST, count_due(lane, work, begun), True)
    number, packet = thread_index(), packet_of(work, begun + thread_index())
    while is_due(lane, work, number, packet):
        i = packet * each
        a, b = load_elements(kind, residual, at + i, count - i)
        collect(lane, epoch, FIRST, number, data)
        add_data(kind, data, lane.shape.pes, sums)
        add_words(kind, a, b, sums)
        a, b = rounded_sums(kind, sums)
        if show:
            word = 4 * ((shown & 1) * lane.shape.hidden_packets + packet)
            store_packet(lane.hidden, word, a, uint32(shown), b, uint32(shown))
        else:
            squares += square_of_words(kind, a, b)
        store_elements(kind, residual, at + i, count - i, a, b)
        number += block_size()
        packet = packet_of(work, begun + number)
    return squares


@function
def receive_hidden(lane, kind, packets, x):
    """What all blocks showed, into `x`; the thread's share of its squares' sum (block)."""
    epoch = next_epoch(lane, SHOWN)
    data, limits = local(BATCH_WORDS, uint32), limits_of(lane)
    at = 4 * (epoch & 1) * lane.shape.hidden_packets
    squares = float32(0)
    first = thread_index()
    while first < packets:
        receive_batch(lane.hidden, at, first, block_size(), packets, uint32(epoch), data, limits, HIDDEN, 0, 0)
        for b in range(BATCH):
            number = first + b * block_size()
            if number < packets:
                x[2 * number], x[2 * number + 1] = data[2 * b], data[2 * b + 1]
                squares += square_of_words(kind, data[2 * b], data[2 * b + 1])
        first += BATCH * block_size()
    return squares


@function
def norm_factor(squares, count, eps, sums):
    """1 / rms of the vector whose squares' sum the block's threads have parts of (block)."""
    squares = warp_sum(squares)
    if lane_index() == 0:
        sums[warp_index()] = squares
    sync_block()
    share, warp = float32(0), lane_index()
    while warp < block_size() // warp_size():
        share += sums[warp]
        warp += warp_size()
    return rsqrt(warp_sum(share) / float32(count) + eps)
