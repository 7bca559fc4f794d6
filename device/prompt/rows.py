"""What the rows of qkv and of gate_up become: queries, keys and values, and the MLP's activations."""

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
from ..bfloat16 import bf16_bits, pack
from ..cache import GRANULE, clear_value, granule_place, key_place, value_place
from ..rope import normalise_head, rotate_head, rotate_pair
from ..sequence import GATE_UP, QKV
from .context import TILE
from .product import row_pair
from .ring import input_word, set_of, tokens_of


@function
def store_rows(plan, partial, factors, biases, cache, rope, layer, position, count, queries, rows):
    """The block's rows of qkv for its tokens, scaled, with their bias (block).

    A head's dimensions d and d + head_dim / 2, which rotate together, are a pair: so rows go where `place_pair` has
    them at once, or, where whole heads are to be normalised first, to rows: float32 [tokens, qkv pairs, 2].
    """
    half = plan.head_dim // 2
    begin, some = tokens_of(plan, count)
    turn = uint32(thread_index())
    while turn < plan.qkv_local * some:
        own = uint32(turn // uint32(plan.qkv_local))
        number, token = uint32(turn - own * plan.qkv_local), uint32(begin + own)
        pair = uint32(set_of(plan) * plan.qkv_local + number)
        if pair < plan.qkv_pairs:
            upper, lower = row_pair(plan, QKV, partial, number, own)
            upper, lower = upper * factors[own], lower * factors[own]
            if plan.qkv_bias:
                upper += biases[2 * (layer * plan.qkv_pairs + pair)]
                lower += biases[2 * (layer * plan.qkv_pairs + pair) + 1]
            if plan.qk_norm:
                store_pair(rows, 2 * (token * plan.qkv_pairs + pair), as_bits(upper), as_bits(lower))
            else:
                vector = uint32(pair // uint32(half))
                d = uint32(pair - vector * half)
                if vector < plan.heads + plan.kv_heads:
                    factor = plan.score_scale if vector < plan.heads else float32(1)
                    upper, lower = rotate_pair(upper, lower, rope, (position + token) * plan.head_dim + 2 * d, factor)
                place_pair(plan, cache, layer, position, count, token, vector, d, upper, lower, queries)
        turn = uint32(turn + plan.block)


@function
def place_pair(plan, cache, layer, position, count, token, vector, d, upper, lower, queries):
    """A head's dimensions d and d + head_dim / 2, normalised and rotated as they must be, as bf16 (thread).

    A query's to `queries` (see `attention.attend`), a key's or a value's to the cache, where the pass's first token is
    at `position`; behind its last value the rest of a tile is cleared. vector: which head, among queries, keys, values.
    """
    half = plan.head_dim // 2
    first, second = bf16_bits(upper), bf16_bits(lower)
    if vector < plan.heads:
        head = uint32(vector // uint32(plan.group))
        row = uint32((head * plan.tokens + token) * plan.group + vector - head * plan.group)
        queries[row * plan.head_dim + d], queries[row * plan.head_dim + half + d] = first, second
    else:
        head, n = uint32(vector - plan.heads) % uint32(plan.kv_heads), uint32(position + token) % uint32(GRANULE)
        at = granule_place(plan, layer, head, position + token)
        if vector < plan.heads + plan.kv_heads:
            cache.keys[at + key_place(n, d)], cache.keys[at + key_place(n, d + half)] = first, second
        else:
            cache.values[at + value_place(n, d)], cache.values[at + value_place(n, d + half)] = first, second
            behind = uint32(position + count)
            while token + 1 == count and behind % TILE > 0:
                granule = granule_place(plan, layer, head, behind)
                clear_value(plan, cache.values, granule, behind % uint32(GRANULE), d)
                behind = uint32(behind + 1)


@function
def place_heads(plan, cache, rope, rows, layer, position, count, queries):
    """Normalises the heads of `rows`, once all blocks have stored them, and places them (all warps of the grid)."""
    half, each = plan.head_dim // 2, plan.heads + 2 * plan.kv_heads
    x, y = local(plan.head_turns, float32), local(plan.head_turns, float32)
    number = uint32(block_index() * plan.warps + warp_index())
    while number < each * count:
        token = uint32(number // uint32(each))
        vector = uint32(number - token * each)
        is_query, is_value = vector < plan.heads, vector >= plan.heads + plan.kv_heads
        load_head(plan, rows, token, vector, x, y)
        if not is_value:
            normalise_head(plan, x, y, cache.head_norms, (2 * layer + (0 if is_query else 1)) * plan.head_dim)
            rotate_head(plan, x, y, rope, position + token, plan.score_scale if is_query else float32(1))
        for turn in range(plan.head_turns):
            d = turn * warp_size() + lane_index()
            if d < half:
                place_pair(plan, cache, layer, position, count, token, vector, uint32(d), x[turn], y[turn], queries)
        number = uint32(number + plan.grid * plan.warps)


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
def store_activations(plan, partial, factors, count, x):
    """SwiGLU of the block's pairs, a row of the gate and one of the up projection, as down's inputs (block)."""
    local_words = plan.gate_up_local // 2
    begin, some = tokens_of(plan, count)
    turn = thread_index()
    while turn < local_words * some:
        token, number = turn // local_words, turn % local_words
        word = set_of(plan) * local_words + number
        if 2 * word < plan.intermediate:
            first = gated(plan, partial, 2 * number, token, factors[token])
            second = gated(plan, partial, 2 * number + 1, token, factors[token])
            store_bits(x, plan.x_down + input_word(plan, begin + token, word), pack(first, second))
        turn += plan.block


@function
def gated(plan, partial, number, token, factor):
    gate, up = row_pair(plan, GATE_UP, partial, number, token)
    gate, up = gate * factor, up * factor
    return divide(gate, float32(1) + exp(-gate)) * up
