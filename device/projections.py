"""What a column-parallel product's rows become: heads for attention, activations for the MLP, logits (all block).

Threads that share work take turns in `while` loops: a `range` that begins at a thread's index first counts its turns,
20 instructions and more, and between two products each one tells.
"""

from .backend import (
    DEVICE,
    as_bits,
    block_index,
    divide,
    exp,
    float32,
    function,
    store_half,
    store_packet,
    thread_index,
    uint32,
)
from .bfloat16 import pack
from .matvec import row_pair, row_quad
from .norm import scale
from .product_input import receive_vector
from .vote import LOWEST
from .watch import ACTIVATION, ATTENTION


@function
def publish_heads(plan, channels, partial, sums, biases, layer, step):
    """The block's rows of queries, keys and values, scaled, with their bias, to the blocks that attend (float32)."""
    tag = uint32(step)
    turn = thread_index()
    while turn < plan.qkv_local:
        pair = block_index() * plan.qkv_local + turn
        if pair < plan.qkv_pairs:
            factor = scale(plan, sums)
            upper, lower = row_pair(partial, turn, plan.qkv_local // 2, plan.qkv_splits)
            upper, lower = upper * factor, lower * factor
            if plan.qkv_bias:
                upper += biases[2 * (layer * plan.qkv_pairs + pair)]
                lower += biases[2 * (layer * plan.qkv_pairs + pair) + 1]
            at = plan.channel_qkv + 4 * ((step & 1) * plan.qkv_pairs + pair)
            store_packet(channels, at, as_bits(upper), tag, as_bits(lower), tag, DEVICE)
        turn += plan.block


@function
def gated(gate, up):
    """SwiGLU of a row of the gate and one of the up projection (Shazeer, 2020)."""
    return divide(gate, float32(1) + exp(-gate)) * up


@function
def publish_activations(plan, channels, partial, sums, step):
    """The block's rows of the MLP's activation to all blocks, two to a half packet (bf16)."""
    turn = thread_index()
    while turn < plan.gate_up_local // 2:
        pair = block_index() * (plan.gate_up_local // 2) + turn
        if pair < plan.intermediate // 2:
            factor = scale(plan, sums)
            gate, up, next_gate, next_up = row_quad(partial, turn, plan.gate_up_local // 2, plan.gate_up_splits)
            first, second = gated(gate * factor, up * factor), gated(next_gate * factor, next_up * factor)
            at = (step & 1) * (plan.intermediate // 2) + pair
            store_half(channels, plan.channel_activation + 2 * at, pack(first, second), uint32(step), DEVICE)
        turn += plan.block


@function
def receive_attention(plan, channels, step, x, limits):
    """The output projection's input into `x` (see product_input.py): attention's outputs."""
    at, words = plan.channel_attention, plan.attention_pairs
    _receive(plan, channels, at, words, plan.o_splits * plan.o_columns, step, x, limits, ATTENTION)


@function
def receive_activations(plan, channels, step, x, limits):
    """The down projection's input into `x` (see product_input.py): the MLP's activations."""
    at, words = plan.channel_activation, plan.intermediate // 2
    _receive(plan, channels, at, words, plan.down_splits * plan.down_columns, step, x, limits, ACTIVATION)


@function
def _receive(plan, channels, at, words, columns, step, x, limits, operation):
    at += 2 * (step & 1) * words
    receive_vector(plan, channels, at, words, columns, uint32(step), x, limits, operation)


@function
def keep_logits(plan, partial, first, pairs, sums, rank, logits, record, at):
    """The logits of the block's pairs from `first` on, `pairs` of them, into shared memory and `record` from `at` on.

    partial: of these pairs alone. logits: float32 [lm_head_rows], LOWEST where the vocabulary is padded. record:
    float32 in device memory, [tokens, vocab]; empty where nobody asked.
    """
    factor = scale(plan, sums)
    turn = thread_index()
    while turn < pairs:
        number = first + turn
        upper, lower = row_pair(partial, turn, pairs // 2, plan.lm_head_splits)
        row = block_index() * plan.lm_head_rows + 2 * number
        for half in range(2):
            value = (upper if half == 0 else lower) * factor
            if row + half < plan.vocab and rank * plan.vocab + row + half < plan.total_vocab:
                logits[2 * number + half] = value
                if at + row + half < record.size:
                    record[at + row + half] = value
            else:
                logits[2 * number + half] = float32(LOWEST)
        turn += plan.block
