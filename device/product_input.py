"""A product's input in a block's shared memory: uint32, bf16 pairs.

Of every four pairs the middle two stand in each other's place, as `multiply_rows` takes them.
"""

from .backend import function, lane_index, local, thread_index, uint32
from .packets import BATCH, BATCH_WORDS, receive_batch, wait_for_packet


@function
def store_packet_pairs(x, base, packet, first, second):
    """Pairs 2 * `packet` and the next one of the vector that begins at x[base] (thread)."""
    at = uint32(base + (packet >> 1) * 4 + (packet & 1))
    x[at], x[at + 2] = first, second


@function
def clear_padding(plan, x, base, first, end):
    """Zeros in packets first to end - 1, constants, of the vector at x[base] (block).

    They meet weights of 0, and must be numbers.
    """
    for turn in range((end - first + plan.block - 1) // plan.block):
        packet = uint32(first + turn * plan.block + thread_index())
        if packet < end:
            store_packet_pairs(x, base, packet, uint32(0), uint32(0))


@function
def receive_vector(plan, channels, at, words, columns, tag, x, limits, operation):
    """A published vector of `words` pairs (a multiple of 2) into `x`; zeros up to element `columns` (block)."""
    data, packets = local(BATCH_WORDS, uint32), uint32(words // 2)
    batch = min(BATCH, (words // 2 + plan.block - 1) // plan.block)
    at, first = uint32(at), uint32(thread_index())
    clear_padding(plan, x, 0, words // 2, columns // 4)
    if first - lane_index() < packets:
        wait_for_packet(channels, at + 4 * (first - lane_index()), tag, limits, operation)
    while first < packets:
        receive_batch(channels, at, first, plan.block, packets, tag, data, limits, operation, 0, batch)
        for b in range(batch):
            packet = uint32(first + b * plan.block)
            if packet < packets:
                store_packet_pairs(x, 0, packet, data[2 * b], data[2 * b + 1])
        first = uint32(first + batch * plan.block)
