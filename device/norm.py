"""The hidden state as a product's input: received, normalised, in shared memory. RMSNorm as in Zhang & Sennrich, 2019.

The product is linear, so the scale 1 / rms is applied to its result: `receive_hidden` leaves weight * hidden in bf16
and the threads' sums of squares, and `scale` gives the factor. That saves a pass and a barrier.
"""

from .backend import (
    as_float32,
    block_index,
    float32,
    function,
    lane_index,
    load_vector,
    local,
    prefetch,
    rsqrt,
    thread_index,
    uint32,
    warp_index,
    warp_sum,
)
from .bfloat16 import high, low, pack, pack_rest
from .packets import BATCH, BATCH_WORDS, receive_batch, wait_for_packet
from .product_input import clear_padding, store_packet_pairs
from .watch import HIDDEN

MOST_WEIGHTS = 4 * BATCH
PARTS = 4  # of `scale`'s sum


@function
def weights_of(norms, at):
    """Four norm weights from `norms[at]` on, a multiple of 16 bytes (thread)."""
    a, b, c, d = load_vector(norms, at)
    return as_float32(a), as_float32(b), as_float32(c), as_float32(d)


@function
def store_normed(plan, weights, packet, first, second, x):
    """Four values of a hidden state (two bf16 words) times their norm weights into `x`; returns their squares' sum.

    The products are stored as two bf16 terms, the low ones `plan.low_terms` behind: rounding them to one would be the
    largest error of a layer, and the tensor cores multiply both at once.
    """
    a, b, c, d = low(first), high(first), low(second), high(second)
    p, q, r, s = a * weights[0], b * weights[1], c * weights[2], d * weights[3]
    upper, lower = pack(p, q), pack(r, s)
    store_packet_pairs(x, 0, packet, upper, lower)
    store_packet_pairs(x, plan.low_terms // 2, packet, pack_rest(upper, p, q), pack_rest(lower, r, s))
    return a * a + b * b + c * c + d * d


@function
def receive_hidden(plan, channels, norms, row, epoch, x, sums, limits):
    """Waits for the hidden state of `epoch` and stores it times row `row` of `norms` (block).

    norms: float32 [rows * hidden]. x: uint32 (see product_input.py), the high terms, and the low ones from
    plan.low_terms / 2 on. sums: float32 [warps], for `scale`, which is valid after the next `sync_workers`.
    """
    at = plan.channel_hidden + (epoch & 1) * 2 * plan.hidden_pairs
    packets, squares = uint32(plan.hidden_pairs // 2), float32(0)
    data, weights = local(BATCH_WORDS, uint32), local(MOST_WEIGHTS, float32)
    base = uint32(thread_index() - lane_index())
    end = plan.low_terms // 4 - 1  # the low terms stand a packet further than the high ones reach
    clear_padding(plan, x, 0, plan.hidden_pairs // 2, end)
    clear_padding(plan, x, plan.low_terms // 2, plan.hidden_pairs // 2, end)
    while base < packets:
        first = uint32(base + lane_index())
        for b in range(plan.hidden_batch):  # before there is something to wait for
            packet, w = uint32(first + b * plan.block), 4 * b
            if packet < packets:
                own = weights_of(norms, row * plan.hidden + 4 * packet)
                weights[w], weights[w + 1], weights[w + 2], weights[w + 3] = own
        wait_for_packet(channels, at + 4 * base, uint32(epoch), limits, HIDDEN)
        receive_batch(
            *(channels, at, first, plan.block, packets, uint32(epoch), data, limits, HIDDEN, 0, plan.hidden_batch)
        )
        for b in range(plan.hidden_batch):
            packet, w = uint32(first + b * plan.block), 4 * b
            if packet < packets:
                own = weights[w], weights[w + 1], weights[w + 2], weights[w + 3]
                squares += store_normed(plan, own, packet, data[2 * b], data[2 * b + 1], x)
        base = uint32(base + plan.hidden_batch * plan.block)
    squares = warp_sum(squares)
    if lane_index() == 0:
        sums[warp_index()] = squares


@function
def prefetch_norms(plan, norms, row):
    """Asks for the block's part of a row of norm weights, which all blocks will read (block).

    The last thread does: the first ones have a result to publish meanwhile.
    """
    part = 8 * ((plan.hidden // 8 + plan.grid - 1) // plan.grid)
    first = part * block_index()
    if thread_index() == plan.block - 1 and first < plan.hidden:
        prefetch(norms, row * plan.hidden + first, 4 * min(part, plan.hidden - first))


@function
def embed(plan, embedding, token_id, norms, x, sums):
    """The embedding row of `token_id` as the hidden state (block).

    embedding: uint32 [total_vocab * hidden / 2], bf16 pairs.
    """
    row = token_id * (plan.hidden // 2)
    squares = float32(0)
    for packet in range(thread_index(), plan.hidden_pairs // 2, plan.block):
        first, second = embedding[row + 2 * packet], embedding[row + 2 * packet + 1]
        squares += store_normed(plan, weights_of(norms, 4 * packet), packet, first, second, x)
    squares = warp_sum(squares)
    if lane_index() == 0:
        sums[warp_index()] = squares


@function
def start_residual(plan, embedding, token_id, first, count, residual):
    """The block's own pairs of `token_id`'s embedding as float32 (block)."""
    row = token_id * (plan.hidden // 2)
    for pair in range(thread_index(), count, plan.block):
        word = embedding[row + first + pair]
        residual[2 * pair], residual[2 * pair + 1] = low(word), high(word)


@function
def scale(plan, sums):
    """1 / rms of the hidden state, which is behind `sums` (thread)."""
    parts = local(PARTS, float32)  # added in turn: none waits for the one just before it
    for part in range(PARTS):
        parts[part] = float32(0)
    for warp in range(plan.warps):
        parts[warp % PARTS] += sums[warp]
    total = (parts[0] + parts[1]) + (parts[2] + parts[3])
    return rsqrt(total / float32(plan.true_hidden) + plan.norm_eps)
