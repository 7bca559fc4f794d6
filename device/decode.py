"""The persistent decode kernel: tokens, layers, phases. It reads like the model it runs.

One launch serves one request: every prompt token and every generated token, all layers, on every PE of a team, with no
round trip to a host. Weights arrive by the stream, which runs ahead of everything else; activations travel between
blocks and PEs as packets. Shapes are this PE's share; `plan` is a record of constants (shmemtp/plan.py).
"""

from collections import namedtuple

from .attention import Cache, Scratch, attend, prefetch_cache
from .backend import (
    block_index,
    clock,
    float32,
    function,
    int64,
    kernel,
    load_relaxed,
    local,
    shared,
    store_relaxed,
    store_release,
    sync_block,
    thread_index,
    uint16,
    uint32,
    uint64,
)
from .communicator import limits_of
from .matvec import column_parallel, multiply, pairs_of, product_of, row_parallel
from .merge import merge_parts
from .norm import embed, prefetch_norms, receive_hidden, start_residual
from .projections import keep_logits, publish_activations, publish_heads, receive_between
from .request import COUNT, REASON, RUNNING, STOP, STOP_INTERVAL, Request, has_ended
from .residual import own_pairs, reduce_residual
from .rope import load_rotation
from .sample import choose
from .stream import STATE_FIELDS, Stream, close_stream, open_stream
from .trace import ATTENDED, COLUMN_PARALLEL, HIDDEN, INPUT, PUBLISHED, RECEIVED, REDUCED, ROW_PARALLEL, mark
from .vote import Ballot, agree_to_stop

Block = namedtuple("Block", "x_words x partial logits scratch residual sums flags trace")
Block.__doc__ = """A block's shared memory beside the stream's ring.

x: uint16 bf16, the current product's input (x_words: the same as uint32). partial: float32 [tiles, TILE_ROWS], a
product's sums. logits: float32. scratch: attention's, in the same memory as partial. residual: float32
[hidden_local, 2], the block's pairs of the hidden state. sums: float32 [warps]. flags: int64 [2]. trace: device memory
of trace.py.
"""
Resident = namedtuple("Resident", "embedding norms biases")
Resident.__doc__ = """What is not streamed. embedding: uint32 bf16 pairs [total_vocab, hidden / 2]. norms: float32
[2 * layers + 1, hidden]. biases: float32 [layers, qkv rows]."""
STEP_EPOCH, VOTE_EPOCH = 0, 1  # epochs: the next layer's and the next vote's number, carried from launch to launch


@function
def decode_layer(plan, stream, block, comm, resident, cache, channels, layer, position, step, limits):
    """One transformer layer of one token; x and sums hold its normalised input (block).

    step: how many layers of how many tokens came before, since the memory was made: the tag of this one's packets.
    channels: words by which this PE's blocks tell each other. limits: of every wait.

    Attention and MLP have one shape: a column-parallel product, what its rows become, a row-parallel product, and its
    sum over the PEs. They are one loop so that they share their code: a layer's must fit the instruction cache.
    """
    for half in range(2):
        attention = half == 0
        sync_block()
        mark(plan, block.trace, layer, half, INPUT)
        multiply(plan, stream, block.x, block.partial, column_parallel(plan, attention))
        sync_block()
        mark(plan, block.trace, layer, half, COLUMN_PARALLEL)
        prefetch_norms(plan, resident.norms, 2 * layer + half + 1)
        if attention:
            publish_heads(plan, channels, block.partial, block.sums, resident.biases, layer, step)
            sync_block()
            attend(plan, cache, channels, block.scratch, layer, position, step, limits)
            mark(plan, block.trace, layer, half, ATTENDED)
            merge_parts(plan, channels, step, limits)
        else:
            publish_activations(plan, channels, block.partial, block.sums, step)
        mark(plan, block.trace, layer, half, PUBLISHED)
        receive_between(plan, channels, attention, step, block.x_words, limits)
        sync_block()
        mark(plan, block.trace, layer, half, RECEIVED)
        product = row_parallel(plan, attention)
        multiply(plan, stream, block.x, block.partial, product)
        sync_block()
        mark(plan, block.trace, layer, half, ROW_PARALLEL)
        epoch = 2 * step + half
        reduce_residual(plan, comm, channels, block.partial, product.splits, block.residual, epoch)
        if not attention:
            prefetch_cache(plan, cache, layer + 1 if layer + 1 < plan.layers else 0, position + 1)
        mark(plan, block.trace, layer, half, REDUCED)
        row = 2 * layer + half + 1
        receive_hidden(plan, channels, resident.norms, row, epoch, block.x_words, block.sums, limits)
        mark(plan, block.trace, layer, half, HIDDEN)


@function
def next_token(plan, stream, block, comm, ballot, request, record, generated, position, epoch, stop, limits):
    """lm_head and the choice of the next token (block); returns it, the wish to stop and the next vote's epoch.

    lm_head has many more rows than a layer's products: it is multiplied in turns, as `partial` has room for.
    """
    begun = 0
    while begun < plan.lm_head_tiles:
        tiles = min(plan.lm_head_turn, plan.lm_head_tiles - begun)
        first, pairs = pairs_of(begun, plan.lm_head_splits), pairs_of(tiles, plan.lm_head_splits)
        sync_block()
        product = product_of(tiles, plan.lm_head_splits, plan.lm_head_columns, plan.low_terms)
        multiply(plan, stream, block.x, block.partial, product)
        sync_block()
        at = generated * plan.vocab
        keep_logits(plan, block.partial, first, pairs, block.sums, comm.rank, block.logits, record, at)
        begun += tiles
    sync_block()
    first_token = comm.rank * plan.vocab + block_index() * plan.lm_head_rows
    return choose(plan, comm, ballot, block.logits, first_token, request, position, epoch, stop, limits)


@kernel
def decode(
    plan,
    comm,
    weights,
    embedding,
    norms,
    biases,
    head_norms,
    rope,
    keys,
    values,
    channels,
    votes,
    vote_outbox,
    vote_signals,
    prompt,
    prompt_count,
    start,
    max_new,
    stops,
    temperature,
    top_p,
    seed,
    control,
    progress,
    tokens,
    times,
    record,
    epochs,
    trace,
):
    """Decodes one request; launched by DecodeLoop (shmemtp/loop.py).

    weights: uint16, the stream. embedding, norms, biases: see Resident. head_norms: float32 [layers, 2, head_dim], of
    queries and keys. rope: float32 [positions, head_dim / 2, cosine and sine]. keys, values: see attention.Cache.
    channels: uint32, what this PE's blocks tell each other (`plan.channel_*`). votes and what belongs to them: see
    Ballot. prompt to seed: see Request. Mapped, for the host: control (written by it), progress, tokens and times (of
    each token: its id, and when it was chosen, in nanoseconds). record: float32, logits that were asked for. epochs:
    int64 [2], carried on. trace: see trace.py.
    """
    request = Request(prompt, prompt_count, start, max_new, stops, temperature, top_p, seed)
    limits = limits_of(comm)
    cache = Cache(keys, values, head_norms)
    resident = Resident(embedding, norms, biases)
    stream = Stream(
        local(STATE_FIELDS, uint32),
        shared(plan.shared_ring, plan.warps * plan.depth * plan.stage_elements, uint16),
        shared(plan.shared_landed, plan.warps * plan.depth, uint64),
        weights,
        prompt_count - 1,
    )
    block = Block(
        shared(plan.shared_x, plan.x_elements // 2, uint32),
        shared(plan.shared_x, plan.x_elements, uint16),
        shared(plan.shared_partial, plan.partial_count, float32),
        shared(plan.shared_logits, plan.lm_head_rows, float32),
        Scratch(
            shared(plan.shared_vectors, (plan.group + 2) * plan.head_dim, float32),
            shared(plan.shared_queries, plan.group * plan.head_dim, uint16),
            shared(plan.shared_scores, plan.group * plan.part_positions, float32),
            shared(plan.shared_weights, plan.group * plan.part_positions, uint16),
            shared(plan.shared_totals, 2 * plan.group, float32),
            shared(plan.shared_rotation, plan.head_dim, float32),
        ),
        shared(plan.shared_residual, 2 * plan.hidden_local, float32),
        shared(plan.shared_sums, plan.warps, float32),
        shared(plan.shared_flags, 2, int64),
        trace,
    )
    ballot = Ballot(
        votes,
        vote_outbox,
        vote_signals,
        shared(plan.shared_keys, plan.warps, uint64),
        shared(plan.shared_numbers, plan.warps + 4, float32),
    )
    speaks = comm.rank == 0 and block_index() == 0
    step, epoch = epochs[STEP_EPOCH], epochs[VOTE_EPOCH]
    for word in range(thread_index(), plan.x_elements // 2, plan.block):
        block.x_words[word] = uint32(0)  # what pads a product's input meets weights of 0, and must be a number
    sync_block()
    open_stream(plan, stream)
    token, fed, generated, reason = prompt[0], 0, 0, int64(RUNNING)
    while reason == RUNNING:
        wanted = fed >= prompt_count - 1
        stop = load_relaxed(control, STOP) if speaks else int64(0)
        embed(plan, embedding, token, norms, block.x_words, block.sums)
        load_rotation(plan, rope, start + fed, block.scratch.rotation)
        start_residual(plan, embedding, token, block_index() * plan.hidden_local, own_pairs(plan), block.residual)
        for layer in range(plan.layers):
            decode_layer(plan, stream, block, comm, resident, cache, channels, layer, start + fed, step, limits)
            step += 1
        wish = False
        if wanted:
            token, wish, epoch = next_token(
                plan, stream, block, comm, ballot, request, record, generated, start + fed, epoch, stop, limits
            )
            if block_index() == 0 and thread_index() == 0:
                store_relaxed(tokens, generated, token)
                store_relaxed(times, generated, clock())
                store_release(progress, COUNT, generated + 1)
            generated += 1
        else:
            token = prompt[fed + 1]
            if fed % STOP_INTERVAL == STOP_INTERVAL - 1:
                wish = agree_to_stop(plan, comm, ballot, epoch, stop, limits)
                epoch += 1
        fed += 1
        reason = has_ended(request, block, generated, token, wish, limits)
    close_stream(plan, stream)
    if block_index() == 0 and thread_index() == 0:
        epochs[STEP_EPOCH], epochs[VOTE_EPOCH] = step, epoch
        store_release(progress, REASON, reason)
