"""The hidden states of a pass: a block keeps its pairs of its tokens in float32, and shows them to all others."""

from ..backend import (
    as_bits,
    as_float32,
    float32,
    function,
    lane_index,
    local,
    rsqrt,
    store_bits,
    thread_index,
    warp_index,
    warp_size,
    warp_sum,
)
from ..bfloat16 import high, low, pack
from ..communicator import FIRST, SECOND
from ..exchange import collect_from, deliver, post, post_to_all
from ..residual import sum_in_order
from ..workers import sync_workers
from .product import row_pair
from .ring import input_word, set_of, tokens_of

TOGETHER = 4  # tokens whose squares a warp loads at once


@function
def pair_of(plan, turn):
    """What is turn number `turn` of a block's: a token, and which of the block's pairs of its hidden state (thread)."""
    return turn // plan.hidden_local, turn % plan.hidden_local


@function
def own_pairs(plan):
    """How many pairs of the hidden state the block has: pairs set * hidden_local and on (thread)."""
    if plan.hidden_pairs % plan.hidden_local == 0:
        return plan.hidden_local
    return max(0, min(plan.hidden_local, plan.hidden_pairs - set_of(plan) * plan.hidden_local))


@function
def embed(plan, embedding, prompt, first, count, residual):
    """The block's pairs of its tokens' embeddings; the pass has `count` from prompt token `first` on (block)."""
    begin, some = tokens_of(plan, count)
    turn = thread_index()
    while turn < plan.hidden_local * some:
        token, pair = pair_of(plan, turn)
        if pair < own_pairs(plan):
            word = embedding[
                prompt[first + begin + token] * plan.hidden_pairs + set_of(plan) * plan.hidden_local + pair
            ]
            residual[2 * turn], residual[2 * turn + 1] = low(word), high(word)
        turn += plan.block


@function
def add_sums(plan, comm, product, partial, residual, count, epoch):
    """Adds a row-parallel product, summed over the PEs in their order, to the block's pairs (block).

    Two shots, for a pass is long: turn number t is PE t % pes's, which hears of it from all PEs, adds, and tells all.
    A slot is safe to use again: that PE has heard of the next epoch from all others, and they from it.
    epoch: uint32, the same on all PEs; with each call it rises, from even to odd and back.
    """
    turns = plan.hidden_local * tokens_of(plan, count)[1]
    if plan.pes > 1:
        share_out(plan, comm, product, partial, turns, epoch)
        sum_share(plan, comm, turns, epoch)
    turn = thread_index()
    while turn < turns:
        token, pair = pair_of(plan, turn)
        if pair < own_pairs(plan):
            upper, lower = summed(plan, comm, product, partial, pair, token, turn, epoch)
            residual[2 * turn] += upper
            residual[2 * turn + 1] += lower
        turn += plan.block


@function
def share_out(plan, comm, product, partial, turns, epoch):
    """This PE's part of each sum to the PE that adds it (block)."""
    turn = thread_index()
    while turn < turns:
        token, pair = pair_of(plan, turn)
        if pair < own_pairs(plan):
            upper, lower = row_pair(plan, product, partial, pair, token)
            post(comm, epoch, FIRST, turn // plan.pes, turn % plan.pes, as_bits(upper), as_bits(lower))
        turn += plan.block
    deliver(comm, epoch, FIRST, (turns + (plan.pes - 1)) // plan.pes, False)


@function
def sum_share(plan, comm, turns, epoch):
    """The sums that are this PE's to all PEs (block)."""
    number = thread_index()
    while number * plan.pes + comm.rank < turns:
        _, pair = pair_of(plan, number * plan.pes + comm.rank)
        if pair < own_pairs(plan):
            upper, lower = sum_in_order(plan, comm, number, epoch)
            post_to_all(comm, epoch, SECOND, number, as_bits(upper), as_bits(lower))
        number += plan.block
    deliver(comm, epoch, SECOND, (turns + (plan.pes - 1)) // plan.pes, True)


@function
def summed(plan, comm, product, partial, pair, token, turn, epoch):
    """A pair of the product, of all PEs (thread)."""
    if plan.pes == 1:
        return row_pair(plan, product, partial, pair, token)
    upper, lower = collect_from(comm, epoch, SECOND, turn // plan.pes, turn % plan.pes)
    return as_float32(upper), as_float32(lower)


@function
def show_hidden(plan, norms, row, residual, count, x, squares):
    """The block's pairs times row `row` of norm weights as inputs of the next product, and their squares' sums (block).

    RMSNorm's factor, the same for a token's whole vector, is left to what the product's rows become (`load_factors`).
    x: uint32, bf16 pairs. squares: float32 [tokens, sets]. The caller's `meet` must follow.
    """
    begin, some = tokens_of(plan, count)
    sync_workers(plan)
    turn, first = thread_index(), set_of(plan) * plan.hidden_local
    while turn < plan.hidden_local * some:
        token, pair = pair_of(plan, turn)
        if pair < own_pairs(plan):
            weight = row * plan.hidden + 2 * (first + pair)
            both = pack(residual[2 * turn] * norms[weight], residual[2 * turn + 1] * norms[weight + 1])
            store_bits(x, plan.x_qkv + input_word(plan, begin + token, first + pair), both)
        turn += plan.block
    token = warp_index()
    while token < some:
        total, pair = float32(0), lane_index()
        while pair < own_pairs(plan):
            at = 2 * (token * plan.hidden_local + pair)
            upper, lower = residual[at], residual[at + 1]
            total += upper * upper + lower * lower
            pair += warp_size()
        total = warp_sum(total)
        if lane_index() == 0:
            squares[(begin + token) * plan.sets + set_of(plan)] = total
        token += plan.warps


@function
def load_factors(plan, squares, count, factors):
    """1 / rms of each of the block's tokens, once all blocks have shown theirs: for after the next `sync_workers`.

    A token to a warp, all loads of TOGETHER of its tokens under way at once. Of tokens that the pass has not it is what
    nobody reads.
    """
    held = local(plan.held_squares, float32)
    begin, _ = tokens_of(plan, count)
    first = warp_index()
    while first < plan.block_tokens:
        for turn in range(TOGETHER):
            token = first + turn * plan.warps
            for k in range(plan.set_turns):
                other = k * warp_size() + lane_index()
                held[turn * plan.set_turns + k] = float32(0)
                if token < plan.block_tokens and other < plan.sets:
                    held[turn * plan.set_turns + k] = squares[(begin + token) * plan.sets + other]
        for turn in range(TOGETHER):
            token, total = first + turn * plan.warps, float32(0)
            for k in range(plan.set_turns):
                total += held[turn * plan.set_turns + k]
            total = warp_sum(total)
            if lane_index() == 0 and token < plan.block_tokens:
                factors[token] = rsqrt(total / float32(plan.true_hidden) + plan.norm_eps)
        first += TOGETHER * plan.warps
