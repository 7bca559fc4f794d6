"""Attention of one token over the KV cache, its context split over the blocks (flash-decoding; Dao et al., 2023).

A unit is one KV head and one part of the context; positions go to parts in turn, `granule` at a time, so a position's
keys and values are written and read by one block only and need no order beyond the block's barrier. Each unit computes
the softmax-weighted values of its positions for the `group` query heads that share the KV head (`attend`), and
publishes them with their maximum and sum; the blocks then merge the parts (merge.py).

Shared memory of a unit, float32: the group's queries and the key [group + 1, head_dim], the value [head_dim], scores
[group, CHUNK], and for each query its running maximum, sum and correction.
"""

from collections import namedtuple

from .backend import (
    as_float32,
    block_index,
    float32,
    function,
    local,
    prefetch,
    sync_block,
    thread_index,
    uint32,
    warp_index,
)
from .bfloat16 import pack
from .packets import receive
from .rope import normalise_head, rotate_head
from .softmax import position_in_part, publish_part, start_softmax, weigh_chunks
from .watch import QUERY

Cache = namedtuple("Cache", "keys values rope head_norms")
Cache.__doc__ = """keys, values: uint32 [layers * kv_heads * max_context * head_dim / 2], bf16 pairs. rope: float32, the
table of `rotate_head`. head_norms: float32 [layers * 2 * head_dim], weights for queries and keys."""


@function
def attend(plan, cache, channels, scratch, layer, position, step, limits):
    """All units of this block for the token at `position`, whose query, key and value come by channel (block)."""
    for unit in range(block_index(), plan.kv_heads * plan.parts, plan.grid):
        head, part = unit // plan.parts, unit % plan.parts
        owner = (position // plan.granule) % plan.parts == part
        receive_heads(plan, channels, scratch, head, owner, step, limits)
        sync_block()
        prepare_heads(plan, cache, scratch, layer, position, owner)
        sync_block()
        row = (layer * plan.kv_heads + head) * plan.max_context
        if owner:
            append(plan, cache, scratch, row + position)
        start_softmax(plan, scratch)
        sync_block()
        first, second = local(plan.attention_items, float32), local(plan.attention_items, float32)
        weigh_chunks(plan, cache, scratch, row, part, positions_of_part(plan, part, position + 1), first, second)
        publish_part(plan, channels, scratch, first, second, unit, step)
        sync_block()


@function
def positions_of_part(plan, part, context):
    """How many of the first `context` positions belong to `part`."""
    cycle = plan.granule * plan.parts
    rest = context % cycle - part * plan.granule
    return (context // cycle) * plan.granule + max(0, min(rest, plan.granule))


@function
def prefetch_cache(plan, cache, layer, position):
    """Asks for the keys and values that this block will read in `layer`: weights push them out of the L2 (block)."""
    half = plan.head_dim // 2
    for unit in range(block_index(), plan.kv_heads * plan.parts, plan.grid):
        head, part = unit // plan.parts, unit % plan.parts
        count = positions_of_part(plan, part, position)
        for first in range(thread_index() * plan.granule, count, plan.block * plan.granule):
            at = position_in_part(plan, part, first) + (layer * plan.kv_heads + head) * plan.max_context
            nbytes = 4 * half * min(plan.granule, count - first)
            prefetch(cache.keys, at * half, nbytes)
            prefetch(cache.values, at * half, nbytes)


@function
def receive_heads(plan, channels, scratch, head, owner, step, limits):
    """The group's queries, and the new key and value if this part holds the position, from the qkv channel (block)."""
    half = plan.head_dim // 2
    at = plan.channel_qkv + 4 * (step & 1) * plan.qkv_pairs
    vectors = plan.group + (2 if owner else 0)
    for i in range(thread_index(), vectors * half, plan.block):
        vector = i // half
        source = head * plan.group + vector  # among all heads: queries, keys, values
        if vector >= plan.group:
            source = plan.heads + (vector - plan.group) * plan.kv_heads + head
        a, b = receive(channels, at + 4 * (source * half + i % half), uint32(step), limits, QUERY, limits.pe)
        scratch[2 * i] = as_float32(a)
        scratch[2 * i + 1] = as_float32(b)


@function
def prepare_heads(plan, cache, scratch, layer, position, owner):
    """Head norms and rotation; queries are also scaled by head_dim ** -0.5 (block)."""
    for vector in range(warp_index(), plan.group + (1 if owner else 0), plan.warps):
        is_key = vector == plan.group
        if plan.qk_norm:
            row = (2 * layer + (1 if is_key else 0)) * plan.head_dim
            normalise_head(plan, scratch, vector * plan.head_dim, cache.head_norms, row)
        factor = float32(1) if is_key else plan.score_scale
        rotate_head(plan, scratch, vector * plan.head_dim, cache.rope, position, factor)


@function
def append(plan, cache, scratch, row):
    """The new key and value into the cache (block)."""
    half = plan.head_dim // 2
    for d in range(thread_index(), half, plan.block):
        key = plan.group * plan.head_dim + 2 * d
        value = key + plan.head_dim
        cache.keys[row * half + d] = pack(scratch[key], scratch[key + 1])
        cache.values[row * half + d] = pack(scratch[value], scratch[value + 1])
