"""What the rows of qkv and of gate_up become: queries, keys and values, and the MLP's activations."""

from ..attention import bf16_bits
from ..backend import (
    as_bits,
    as_float32,
    block_index,
    divide,
    exp,
    float32,
    function,
    lane_index,
    load_pair,
    local,
    store_bits,
    store_pair,
    thread_index,
    uint32,
    warp_index,
    warp_size,
)
from ..bfloat16 import pack
from ..cache import GRANULE, granule_place, key_place, value_place
from ..rope import normalise_head, rotate_head
from ..sequence import GATE_UP, QKV
from .product import row_pair
from .stream import input_word


@function
def store_rows(plan, partial, factors, biases, layer, count, rows):
    """The block's rows of qkv, scaled, with their bias, to rows: float32 [tokens, qkv pairs, 2] (block)."""
    turn = thread_index()
    while turn < plan.qkv_local * count:
        token, number = turn // plan.qkv_local, turn % plan.qkv_local
        pair = block_index() * plan.qkv_local + number
        if pair < plan.qkv_pairs:
            upper, lower = row_pair(plan, QKV, partial, number, token)
            upper, lower = upper * factors[token], lower * factors[token]
            if plan.qkv_bias:
                upper += biases[2 * (layer * plan.qkv_pairs + pair)]
                lower += biases[2 * (layer * plan.qkv_pairs + pair) + 1]
            store_pair(rows, 2 * (token * plan.qkv_pairs + pair), as_bits(upper), as_bits(lower))
        turn += plan.block


@function
def load_head(plan, rows, token, source, x, y):
    """A head of `rows`: dimensions d and d + head_dim / 2 as device/rope.py has them (warp)."""
    half = plan.head_dim // 2
    for turn in range(plan.head_turns):
        d, a, b = turn * warp_size() + lane_index(), uint32(0), uint32(0)
        if d < half:
            a, b = load_pair(rows, 2 * (token * plan.qkv_pairs + source * half + d))
        x[turn], y[turn] = as_float32(a), as_float32(b)


@function
def place_heads(plan, cache, rope, rows, layer, position, count, queries):
    """The pass's heads, normalised and rotated as they must be, as bf16 (all warps of the grid).

    Queries, scaled, go to `queries` (see `attention.attend`), keys and values to the cache, where the pass's first
    token is at `position`.
    """
    half, each = plan.head_dim // 2, plan.heads + 2 * plan.kv_heads
    x, y = local(plan.head_turns, float32), local(plan.head_turns, float32)
    number = uint32(block_index() * plan.warps + warp_index())
    while number < each * count:
        token = uint32(number // uint32(each))
        vector = uint32(number - token * each)
        is_query, is_value = vector < plan.heads, vector >= plan.heads + plan.kv_heads
        load_head(plan, rows, token, vector, x, y)
        if not is_value:
            if plan.qk_norm:
                normalise_head(plan, x, y, cache.head_norms, (2 * layer + (0 if is_query else 1)) * plan.head_dim)
            rotate_head(plan, x, y, rope, position + token, plan.score_scale if is_query else float32(1))
        for turn in range(plan.head_turns):
            d = turn * warp_size() + lane_index()
            if d < half:
                upper, lower = bf16_bits(x[turn]), bf16_bits(y[turn])
                if is_query:
                    head = uint32(vector // uint32(plan.group))
                    row = uint32((head * plan.tokens + token) * plan.group + vector - head * plan.group)
                    queries[row * plan.head_dim + d], queries[row * plan.head_dim + half + d] = upper, lower
                else:
                    head = uint32(vector - plan.heads) % uint32(plan.kv_heads)
                    granule = granule_place(plan, layer, head, position + token)
                    n = uint32(position + token) % uint32(GRANULE)
                    if is_value:
                        cache.values[granule + value_place(n, d)] = upper
                        cache.values[granule + value_place(n, d + half)] = lower
                    else:
                        cache.keys[granule + key_place(n, d)] = upper
                        cache.keys[granule + key_place(n, d + half)] = lower
        number = uint32(number + plan.grid * plan.warps)


@function
def store_activations(plan, partial, factors, count, x):
    """SwiGLU of the block's pairs, a row of the gate and one of the up projection, as down's inputs (block)."""
    local_words = plan.gate_up_local // 2
    turn = thread_index()
    while turn < local_words * count:
        token, number = turn // local_words, turn % local_words
        word = block_index() * local_words + number
        if 2 * word < plan.intermediate:
            first = gated(plan, partial, 2 * number, token, factors[token])
            second = gated(plan, partial, 2 * number + 1, token, factors[token])
            store_bits(x, plan.x_down + input_word(plan, plan.down_columns, token, word), pack(first, second))
        turn += plan.block


@function
def gated(plan, partial, number, token, factor):
    gate, up = row_pair(plan, GATE_UP, partial, number, token)
    gate, up = gate * factor, up * factor
    return divide(gate, float32(1) + exp(-gate)) * up
