"""The hidden state as a product's input: received, normalised, in shared memory. RMSNorm as in Zhang & Sennrich, 2019.

The product is linear, so the scale 1 / rms is applied to its result: `receive_hidden` leaves weight * hidden in bf16
and the threads' sums of squares, and `scale` gives the factor. That saves a pass and a barrier.
"""

from .backend import (
    block_index,
    float32,
    function,
    lane_index,
    local,
    prefetch,
    rsqrt,
    thread_index,
    uint32,
    warp_index,
    warp_sum,
)
from .bfloat16 import high, low, pack, pack_rest
from .packets import BATCH, receive_batch, wait_for_packet
from .watch import HIDDEN


@function
def store_normed(plan, norms, at, packet, first, second, x):
    """Four values of the hidden state (two bf16 words) times their norm weights into `x`; returns their squares' sum.

    The products are stored as two bf16 terms, the low ones `plan.low_terms` behind: rounding them to one would be the
    largest error of a layer, and the tensor cores multiply both at once.
    """
    a, b, c, d = low(first), high(first), low(second), high(second)
    p, q = a * norms[at + 4 * packet], b * norms[at + 4 * packet + 1]
    r, s = c * norms[at + 4 * packet + 2], d * norms[at + 4 * packet + 3]
    upper, lower = pack(p, q), pack(r, s)
    x[2 * packet], x[2 * packet + 1] = upper, lower
    behind = 2 * packet + plan.low_terms // 2
    x[behind], x[behind + 1] = pack_rest(upper, p, q), pack_rest(lower, r, s)
    return a * a + b * b + c * c + d * d


@function
def receive_hidden(plan, channels, norms, row, epoch, x, sums, limits):
    """Waits for the hidden state of `epoch` and stores it times row `row` of `norms` (block).

    norms: float32 [rows * hidden]. x: uint32, bf16 pairs, [hidden / 2] high terms and as many low ones. sums: float32
    [warps], for `scale`, which is valid after the next `sync_block`.
    """
    at = plan.channel_hidden + 2 * (epoch & 1) * plan.hidden_pairs
    packets = plan.hidden_pairs // 2
    data = local(8, uint32)
    squares = float32(0)
    if thread_index() - lane_index() < packets:
        wait_for_packet(channels, at + 4 * (thread_index() - lane_index()), uint32(epoch), limits, HIDDEN)
    for first in range(thread_index(), packets, BATCH * plan.block):
        receive_batch(channels, at, first, plan.block, packets, uint32(epoch), data, limits, HIDDEN, 0)
        for b in range(BATCH):
            packet = first + b * plan.block
            if packet < packets:
                squares += store_normed(plan, norms, row * plan.hidden, packet, data[2 * b], data[2 * b + 1], x)
    squares = warp_sum(squares)
    if lane_index() == 0:
        sums[warp_index()] = squares


@function
def prefetch_norms(plan, norms, row):
    """Asks for the block's part of a row of norm weights, which all blocks will read (block)."""
    part = 8 * ((plan.hidden // 8 + plan.grid - 1) // plan.grid)
    first = part * block_index()
    if thread_index() == 0 and first < plan.hidden:
        prefetch(norms, row * plan.hidden + first, 4 * min(part, plan.hidden - first))


@function
def embed(plan, embedding, token, norms, x, sums):
    """The embedding row of `token` in place of a received hidden state (block).

    embedding: uint32 [total_vocab * hidden / 2], bf16 pairs.
    """
    row = token * (plan.hidden // 2)
    squares = float32(0)
    for packet in range(thread_index(), plan.hidden_pairs // 2, plan.block):
        first, second = embedding[row + 2 * packet], embedding[row + 2 * packet + 1]
        squares += store_normed(plan, norms, 0, packet, first, second, x)
    squares = warp_sum(squares)
    if lane_index() == 0:
        sums[warp_index()] = squares


@function
def start_residual(plan, embedding, token, first, count, residual):
    """The block's own pairs of the token's embedding as float32 (block)."""
    row = token * (plan.hidden // 2)
    for pair in range(thread_index(), count, plan.block):
        word = embedding[row + first + pair]
        residual[2 * pair] = low(word)
        residual[2 * pair + 1] = high(word)


@function
def scale(plan, sums):
    """1 / rms of the hidden state behind `sums` (thread)."""
    total = float32(0)
    for warp in range(plan.warps):
        total += sums[warp]
    return rsqrt(total / float32(plan.true_hidden) + plan.norm_eps)
