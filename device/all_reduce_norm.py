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
    sqrt,
    store_packet,
    sync_block,
    thread_index,
    uint32,
    warp_index,
    warp_size,
    warp_sum,
)
from .communicator import FIRST, begin, divide_up, finish, limits_of
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
from .packets import BATCH, receive_batch
from .watch import HIDDEN


@function
def all_reduce_norm_block(comm, kind, source, start, residual, at, weight, of, target, to, count, eps, sums):
    """One vector, all of it by the calling block (block).

    source, residual, weight, target: `count` elements of `kind` (not INT32) from start, at, of and to on; target may be
    source. eps: float32. sums: float32 [warps of the block] in shared memory.
    """
    each = elements_of_packet(kind)
    packets = divide_up(count, each)
    squares = float32(0)
    for first in range(0, packets, comm.shape.packets):
        last = min(packets, first + comm.shape.packets)
        squares += reduce_residual(comm, kind, source, start, residual, at, count, first, last, False)
    factor = norm_factor(squares, count, eps, sums)
    for first in range(0, packets, comm.shape.packets):  # each thread its own packets again
        last = min(packets, first + comm.shape.packets)
        for number in range(first + thread_index(), last, block_size()):
            i = number * each
            a, b = load_elements(kind, residual, at + i, count - i)
            weight_a, weight_b = load_elements(kind, weight, of + i, count - i)
            a, b = scale_words(kind, a, b, weight_a, weight_b, factor)
            store_elements(kind, target, to + i, count - i, a, b)
    sync_block()


@function
def all_reduce_norm_grid(comm, kind, source, start, residual, at, weight, of, x, count, eps, sums):
    """One vector by all blocks, each of which has the whole result in the end: in its own `x` (grid).

    As `all_reduce_norm_block`, but x: uint32 in shared memory, the elements' bits, two words for each 8 bytes begun.
    Each block adds its share into residual. At most as many blocks as 8 bytes fit `count` elements; as many in every
    call with this communicator.
    """
    each = elements_of_packet(kind)
    packets = divide_up(count, each)
    epoch = comm.epochs[comm.shape.lanes + block_index()]
    first = packets * block_index() // grid_size()
    end = packets * (block_index() + 1) // grid_size()
    for begun in range(first, end, comm.shape.packets):
        last = min(end, begun + comm.shape.packets)
        reduce_residual(comm, kind, source, start, residual, at, count, begun, last, True)
    squares = receive_hidden(comm, kind, packets, epoch, x)
    factor = norm_factor(squares, count, eps, sums)
    for number in range(thread_index(), packets, block_size()):
        weight_a, weight_b = load_elements(kind, weight, of + number * each, count - number * each)
        a, b = scale_words(kind, x[2 * number], x[2 * number + 1], weight_a, weight_b, factor)
        x[2 * number], x[2 * number + 1] = a, b
    if thread_index() == 0:
        comm.epochs[comm.shape.lanes + block_index()] = epoch + 1
    sync_block()


@function
def reduce_residual(comm, kind, source, start, residual, at, count, first, last, publish):
    """Packets `first` to `last` of the sum into residual; the thread's share of their squares' sum (block).

    At most an exchange's packets. publish: tell hidden to this PE's other blocks.
    """
    each = elements_of_packet(kind)
    data, sums = local(comm.shape.pes_twice, uint32), local(4, uint32)
    squares = float32(0)
    epoch = begin(comm)
    shown = comm.epochs[comm.shape.lanes + block_index()]
    for number in range(thread_index(), last - first, block_size()):
        i = (first + number) * each
        a, b = load_elements(kind, source, start + i, count - i)
        post_to_all(comm, epoch, FIRST, number, a, b)
    deliver(comm, epoch, FIRST, last - first, True)
    for number in range(thread_index(), last - first, block_size()):
        i = (first + number) * each
        a, b = load_elements(kind, residual, at + i, count - i)
        collect(comm, epoch, FIRST, number, data)
        add_data(kind, data, comm.shape.pes, sums)
        add_words(kind, a, b, sums)
        a, b = rounded_sums(kind, sums)
        if publish:
            word = 4 * ((shown & 1) * comm.shape.hidden_packets + first + number)
            store_packet(comm.hidden, word, a, uint32(shown), b, uint32(shown))
        else:
            squares += square_of_words(kind, a, b)
        store_elements(kind, residual, at + i, count - i, a, b)
    finish(comm, epoch)
    return squares


@function
def receive_hidden(comm, kind, packets, epoch, x):
    """What all blocks published, into `x`; the thread's share of its squares' sum (block)."""
    data, limits = local(2 * BATCH, uint32), limits_of(comm)
    at = 4 * (epoch & 1) * comm.shape.hidden_packets
    squares = float32(0)
    for first in range(thread_index(), packets, BATCH * block_size()):
        receive_batch(comm.hidden, at, first, block_size(), packets, uint32(epoch), data, limits, HIDDEN, 0, 0)
        for b in range(BATCH):
            number = first + b * block_size()
            if number < packets:
                x[2 * number], x[2 * number + 1] = data[2 * b], data[2 * b + 1]
                squares += square_of_words(kind, data[2 * b], data[2 * b + 1])
    return squares


@function
def norm_factor(squares, count, eps, sums):
    """1 / rms of the vector whose squares' sum the block's threads have parts of (block)."""
    squares = warp_sum(squares)
    if lane_index() == 0:
        sums[warp_index()] = squares
    sync_block()
    total = float32(0)
    for warp in range(block_size() // warp_size()):
        total += sums[warp]
    return float32(1) / sqrt(total / float32(count) + eps)
