"""The persistent decode kernel: tokens, layers, phases. It reads like the model it runs.

One launch serves one request: every prompt token and every generated token, all layers, on every PE of a team, with no
round trip to a host. Weights arrive by the stream, which runs ahead of everything else; activations travel between
blocks and PEs as packets. Shapes are this PE's share; `plan` is a record of constants (shmemtp/plan.py).

A pass takes `plan.tokens` tokens through all layers and reads every weight once. Generated tokens come one by one; a
prompt is fed several at a time, by passes with a plan of their own. A token's sums are the same in both, bit for bit.
"""

from collections import namedtuple

from .backend import (
    block_index,
    clock,
    float32,
    function,
    int32,
    int64,
    kernel,
    load_relaxed,
    local,
    shared,
    store_relaxed,
    store_release,
    thread_index,
    uint16,
    uint32,
    uint64,
)
from .cache import Cache
from .communicator import limits_of
from .feeder import feed
from .layer import Resident, begin_token, decode_layer, open_block
from .matvec import multiply, pairs_of, product_of
from .projections import keep_logits
from .request import COUNT, FED_FLAG, REASON, REASON_FLAG, RUNNING, STOP, STOP_INTERVAL, Request, has_ended
from .sample import choose
from .sequence import LM_HEAD, stages_of
from .stream import STATE_FIELDS, Stream, close_stream, end_stream, open_stream
from .vote import Ballot, agree_to_stop
from .workers import is_feeder, sync_workers

Host = namedtuple("Host", "control progress tokens times record trace")
Host.__doc__ = """Memory that both sides see: control is written by the host; progress, tokens and times (of each token
its id and when it was chosen, in nanoseconds) are read by it, all mapped. record: float32, logits that were asked for.
trace: see trace.py."""
STEP_EPOCH, VOTE_EPOCH = 0, 1  # epochs: the next layer's and the next vote's number, carried from launch to launch


@function
def open_ring(plan, state):
    """The weight stream's: see Stream (all threads of the block). state: `local`, the caller's own."""
    stream = Stream(
        state,
        shared(plan.shared_ring, plan.stages * plan.stage_elements, uint16),
        shared(plan.shared_landed, plan.stages // plan.batch, uint64),
        shared(plan.shared_free, plan.stages // plan.batch, uint64),
        shared(plan.shared_closed, 1, uint64),
    )
    open_stream(plan, stream)
    return stream


@function
def wish_of_host(comm, host):
    """The wish to stop, which only PE 0's host can have and its first block tells (thread)."""
    return int32(load_relaxed(host.control, STOP)) if comm.rank == 0 and block_index() == 0 else int32(0)


@function
def worth_a_pass(plan, left):
    """Whether `left` tokens take longer one by one than together: a pass of 8 tokens takes as long as two of one."""
    return left > max(1, plan.tokens // 4)


@function
def prefill(plan, stream, block, comm, channels, resident, cache, ballot, request, host, epochs):
    """Feeds the prompt's tokens before its last one, `plan.tokens` at a time (block).

    Some may be left for `generate`. Returns the epochs to go on with; the block's flags say how many it fed, and why
    the request ended, if it did.
    """
    limits = limits_of(comm)
    step, epoch = epochs
    fed, reason = 0, int64(RUNNING)
    while reason == RUNNING and worth_a_pass(plan, request.prompt_count - 1 - fed):
        first = min(fed, request.prompt_count - 1 - plan.tokens)  # some a second time, which changes nothing
        position = request.start + first
        for token in range(plan.tokens):
            begin_token(plan, resident, block, request.prompt[first + token], token, position + token)
        for layer in range(plan.layers):
            decode_layer(plan, stream, block, comm, resident, cache, channels, layer, uint32(position), step, limits)
            step += 1
        fed = first + plan.tokens
        wish = False
        if fed % STOP_INTERVAL == 0:
            wish = agree_to_stop(plan, comm, ballot, epoch, wish_of_host(comm, host), limits)
            epoch += 1
        reason = has_ended(plan, request, block, 0, 0, wish, limits)
    if thread_index() == 0:
        block.flags[FED_FLAG] = fed
    return step, epoch


@function
def next_token(plan, stream, block, comm, ballot, request, record, generated, position, epoch, stop, limits):
    """lm_head and the choice of the next token (block); returns it, the wish to stop and the next vote's epoch.

    lm_head has many more rows than a layer's products: it is multiplied in turns, as `partial` has room for.
    """
    begun = 0
    while begun < plan.lm_head_tiles:
        tiles = min(plan.lm_head_turn, plan.lm_head_tiles - begun)
        first, pairs = pairs_of(begun, plan.lm_head_splits), pairs_of(tiles, plan.lm_head_splits)
        sync_workers(plan)
        stages = stages_of(plan, LM_HEAD) - begun if begun + tiles == plan.lm_head_tiles else tiles
        product = product_of(plan, stream, stages, plan.lm_head_splits, plan.lm_head_columns, plan.low_terms)
        multiply(plan, stream, block.x, block.partial, product)
        sync_workers(plan)
        at = generated * plan.vocab
        keep_logits(plan, block.partial, first, pairs, block.sums, comm.rank, block.logits, record, at)
        begun += tiles
    sync_workers(plan)
    first_token = comm.rank * plan.vocab + block_index() * plan.lm_head_rows
    return choose(plan, comm, ballot, block.logits, first_token, request, position, epoch, stop, limits)


@function
def generate(plan, stream, block, comm, channels, resident, cache, ballot, request, host, fed, epochs):
    """Feeds the prompt from token `fed` on, then every token that it chooses (block).

    Returns the epochs to go on with; the block's flags say why the request ended.
    """
    limits = limits_of(comm)
    step, epoch = epochs
    token, reason = request.prompt[fed], int64(RUNNING)
    position = uint32(request.start + fed)
    while reason == RUNNING:
        stop = wish_of_host(comm, host)
        begin_token(plan, resident, block, token, 0, position)
        for layer in range(plan.layers):
            decode_layer(plan, stream, block, comm, resident, cache, channels, layer, position, step, limits)
            step += 1
        wish = False
        fed = position - request.start + 1  # this pass's token too
        generated = fed - request.prompt_count  # before this pass, once it is not below 0
        if generated >= 0:
            token, wish, epoch = next_token(
                plan, stream, block, comm, ballot, request, host.record, generated, position, epoch, stop, limits
            )
            if block_index() == 0 and thread_index() == 0:
                store_relaxed(host.tokens, generated, token)
                store_relaxed(host.times, generated, clock())
                store_release(host.progress, COUNT, generated + 1)
        else:
            token = request.prompt[fed]
            if fed % STOP_INTERVAL == 0:
                wish = agree_to_stop(plan, comm, ballot, epoch, stop, limits)
                epoch += 1
        position = uint32(position + 1)
        reason = has_ended(plan, request, block, generated + 1, token, wish, limits)
    return step, epoch


@kernel
def decode(
    plan,
    comm,
    channels,
    prefill_plan,
    prefill_comm,
    prefill_channels,
    weights,
    embedding,
    norms,
    biases,
    head_norms,
    rope,
    keys,
    values,
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

    channels: uint32, what this PE's blocks tell each other (`plan.channel_*`). Passes with `prefill_plan` have a
    communicator and channels of their own, whose slots no other passes use. weights to biases, and rope: see Resident.
    head_norms: float32 [layers, 2, head_dim], of queries and keys. keys, values: see cache.Cache. votes and what
    belongs to them: see Ballot. prompt to seed: see Request. control to times, record, trace: see Host. epochs: int64
    [2], carried on.
    """
    request = Request(prompt, prompt_count, start, max_new, stops, temperature, top_p, seed)
    cache = Cache(keys, values, head_norms)
    resident = Resident(weights, embedding, norms, biases, rope)
    host = Host(control, progress, tokens, times, record, trace)
    ballot = Ballot(
        votes,
        vote_outbox,
        vote_signals,
        shared(plan.shared_keys, plan.warps, uint64),
        shared(plan.shared_numbers, plan.warps + 4, float32),
    )
    fed, reason, carried = int64(0), int64(RUNNING), (epochs[STEP_EPOCH], epochs[VOTE_EPOCH])
    if prefill_plan.tokens > 1 and prompt_count > prefill_plan.tokens:
        block = open_block(prefill_plan, trace)
        stream = open_ring(prefill_plan, local(STATE_FIELDS, uint32))
        if is_feeder(prefill_plan):
            feed(prefill_plan, stream, weights, prompt_count)
        else:
            carried = prefill(
                *(prefill_plan, stream, block, prefill_comm, prefill_channels),
                *(resident, cache, ballot, request, host, carried),
            )
            close_stream(prefill_plan, stream)
        end_stream(prefill_plan, stream)
        fed, reason = block.flags[FED_FLAG], block.flags[REASON_FLAG]
    if reason == RUNNING:
        block = open_block(plan, trace)
        stream = open_ring(plan, local(STATE_FIELDS, uint32))
        if is_feeder(plan):
            feed(plan, stream, weights, prompt_count - 1 - fed)
        else:
            carried = generate(
                *(plan, stream, block, comm, channels, resident, cache, ballot, request, host, fed, carried)
            )
            close_stream(plan, stream)
        end_stream(plan, stream)
        reason = block.flags[REASON_FLAG]
    if block_index() == 0 and thread_index() == 0:
        epochs[STEP_EPOCH], epochs[VOTE_EPOCH] = carried
        store_release(progress, REASON, reason)
