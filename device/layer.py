"""A transformer layer of a token, from its embedding on, and the shared memory in which a block works on it."""

from collections import namedtuple

from .attention import Scratch, attend
from .backend import (
    anew,
    barrier_fence,
    block_index,
    float32,
    function,
    int64,
    shared,
    sync_block,
    thread_index,
    uint16,
    uint32,
)
from .matvec import down_product, gate_up_product, multiply, o_product, qkv_product
from .merge import merge_parts
from .norm import embed, prefetch_norms, receive_hidden, start_residual
from .part import IN_USE, RECORD, find_parts
from .projections import publish_activations, publish_heads, receive_activations, receive_attention
from .residual import own_pairs, reduce_residual
from .rope import load_rotation
from .trace import ATTENDED, COLUMN_PARALLEL, HIDDEN, INPUT, PUBLISHED, RECEIVED, REDUCED, ROW_PARALLEL, mark
from .workers import sync_workers

Block = namedtuple("Block", "x_words x partial logits scratch residual sums flags trace")
Block.__doc__ = """A block's shared memory beside the stream's ring.

x: uint16 bf16 [x_elements], the current product's input as product_input.py has it (x_words: the same as uint32).
partial: float32 [tiles, TILE_ROWS], a product's sums. logits: float32. scratch: attention's, see Scratch.
residual: float32 [hidden_local, 2], the block's pairs of the hidden state. sums: float32 [warps].
flags: int64 [2], see request.py. trace: device memory of trace.py.
"""
Resident = namedtuple("Resident", "weights embedding norms biases rope")
Resident.__doc__ = """The model. weights: uint16 bf16, the stream. embedding: uint32 bf16 pairs [total_vocab, hidden
/ 2]. norms: float32 [2 * layers + 1, hidden]. biases: float32 [layers, qkv rows]. rope: float32 [positions, head_dim /
2, cosine and sine]."""


@function
def open_block(plan, trace):
    """The block's shared memory as `plan` divides it (all threads, the feeder's too)."""
    block = Block(
        shared(plan.shared_x, plan.x_elements // 2, uint32),
        shared(plan.shared_x, plan.x_elements, uint16),
        shared(plan.shared_partial, plan.partial_count, float32),
        shared(plan.shared_logits, plan.logits_count, float32),
        Scratch(
            shared(plan.shared_heads, (plan.group + 2) * plan.head_dim, uint16),
            shared(plan.shared_found, plan.attending * plan.attending_rows * plan.sum_row, float32),
            shared(plan.shared_rotation, plan.head_dim, float32),
            shared(plan.shared_parts, RECORD * (1 + plan.block_units), uint32),
        ),
        shared(plan.shared_residual, 2 * plan.hidden_local, float32),
        shared(plan.shared_sums, plan.warps, float32),
        shared(plan.shared_flags, 2, int64),
        trace,
    )
    for word in range(thread_index(), plan.x_elements // 2, plan.block):
        block.x_words[word] = uint32(0)  # what pads a product's input meets weights of 0, and must be a number
    barrier_fence()  # the copy engine is about to overwrite what other passes have written
    sync_block()
    return block


@function
def begin_token(plan, resident, block, token_id, position):
    """The token's hidden state, its rotation and its parts of the context (block)."""
    embed(plan, resident.embedding, token_id, resident.norms, block.x_words, block.sums)
    load_rotation(plan, resident.rope, position, block.scratch.rotation)
    find_parts(plan, block.scratch.parts, position)
    first = block_index() * plan.hidden_local
    start_residual(plan, resident.embedding, token_id, first, own_pairs(plan), block.residual)


@function
def decode_layer(plan, stream, block, comm, resident, cache, channels, layer, position, step, limits):
    """One transformer layer; x and sums hold its normalised input, and then the next one's (block).

    position: the token's. step: how many layers of how many passes came before, since the memory was made: the
    tag of this one's packets. channels: words by which this PE's blocks tell each other. limits: of every wait.

    Attention and MLP have one shape: a column-parallel product, what its rows become, a row-parallel product, and its
    sum over the PEs.
    """
    position = anew(position)  # what attention makes of it takes registers, and is soon made again
    attention(plan, stream, block, comm, resident, cache, channels, layer, position, step, limits)
    mlp(plan, stream, block, comm, resident, cache, channels, layer, position, step, limits)


@function
def attention(plan, stream, block, comm, resident, cache, channels, layer, position, step, limits):
    """The layer's first half (block)."""
    half, epoch, row = 0, 2 * step, 2 * layer + 1
    sync_workers(plan)
    mark(plan, block.trace, layer, half, INPUT)
    multiply(plan, stream, block.x, block.partial, qkv_product(plan))
    sync_workers(plan)
    mark(plan, block.trace, layer, half, COLUMN_PARALLEL)
    prefetch_norms(plan, resident.norms, row)
    publish_heads(plan, channels, block.partial, block.sums, resident.biases, layer, step)
    # no barrier: attention's scratch lies where x was, and nobody has read that since the product
    attend(plan, stream, cache, channels, block.scratch, layer, position, step, limits)
    mark(plan, block.trace, layer, half, ATTENDED)
    merge_parts(plan, channels, block.scratch.parts[IN_USE], step, limits)
    mark(plan, block.trace, layer, half, PUBLISHED)
    receive_attention(plan, channels, step, block.x_words, limits)
    sync_workers(plan)
    mark(plan, block.trace, layer, half, RECEIVED)
    multiply(plan, stream, block.x, block.partial, o_product(plan))
    sync_workers(plan)
    mark(plan, block.trace, layer, half, ROW_PARALLEL)
    reduce_residual(plan, comm, channels, block.partial, plan.o_splits, block.residual, epoch)
    mark(plan, block.trace, layer, half, REDUCED)
    receive_hidden(plan, channels, resident.norms, row, epoch, block.x_words, block.sums, limits)
    mark(plan, block.trace, layer, half, HIDDEN)


@function
def mlp(plan, stream, block, comm, resident, cache, channels, layer, position, step, limits):
    """The layer's second half (block)."""
    half, epoch, row = 1, 2 * step + 1, 2 * layer + 2
    sync_workers(plan)
    mark(plan, block.trace, layer, half, INPUT)
    multiply(plan, stream, block.x, block.partial, gate_up_product(plan))
    sync_workers(plan)
    mark(plan, block.trace, layer, half, COLUMN_PARALLEL)
    prefetch_norms(plan, resident.norms, row)
    publish_activations(plan, channels, block.partial, block.sums, step)
    mark(plan, block.trace, layer, half, PUBLISHED)
    receive_activations(plan, channels, step, block.x_words, limits)
    sync_workers(plan)
    mark(plan, block.trace, layer, half, RECEIVED)
    multiply(plan, stream, block.x, block.partial, down_product(plan))
    sync_workers(plan)
    mark(plan, block.trace, layer, half, ROW_PARALLEL)
    reduce_residual(plan, comm, channels, block.partial, plan.down_splits, block.residual, epoch)
    mark(plan, block.trace, layer, half, REDUCED)
    receive_hidden(plan, channels, resident.norms, row, epoch, block.x_words, block.sums, limits)
    mark(plan, block.trace, layer, half, HIDDEN)
