"""The persistent decode kernel: tokens, layers, phases. It reads like the model it runs.

One launch serves one request: every prompt token and every generated token, all layers, on every PE of a team, with no
round trip to a host. Weights arrive by the stream, which runs ahead of everything else; activations travel between
blocks and PEs as packets. Shapes are this PE's share; `plan` is a record of constants (shmemtp/plan.py).

Every token is a pass through all layers and reads every weight once. A prompt is fed many tokens at a time (prompt/).
"""

from collections import namedtuple

from .backend import (
    anew,
    block_index,
    clock,
    float32,
    function,
    int64,
    kernel,
    local,
    shared,
    store_relaxed,
    store_release,
    thread_index,
    uint16,
    uint32,
    uint64,
)
from .cache import Cache, clear_page
from .communicator import limits_of
from .feeder import feed
from .layer import Resident, begin_token, decode_layer, open_block
from .matvec import multiply, pairs_of, product_of
from .projections import keep_logits
from .prompt.context import STATE_FIELDS as CONTEXT_STATE_FIELDS
from .prompt.passes import Shown, layers_of, prefill
from .prompt.passes import end_block as end_passes
from .prompt.passes import open_block as open_passes
from .request import (
    FED_FLAG,
    NO_TOKEN,
    REASON_FLAG,
    RUNNING,
    STOP_INTERVAL,
    Request,
    has_ended,
    wish_of_host,
)
from .sample import choose
from .sequence import LM_HEAD, stages_of
from .stream import STATE_FIELDS, Stream, close_stream, end_stream, open_stream
from .vote import Ballot, agree_to_stop
from .workers import is_feeder, sync_workers

Host = namedtuple("Host", "control tokens times record trace")
Host.__doc__ = """Memory that both sides see: control is written by the host; tokens and times (of each token its id and
when it was chosen, in nanoseconds) are read by it, all mapped. Each word of these two tells by itself whether it is
there, for it was -1 before: so no store waits for another one's way to the host. record: float32, logits
that were asked for. trace: see trace.py."""
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
def next_token(plan, stream, block, comm, ballot, request, record, generated, position, stop, limits):
    """lm_head and the choice of the next token (block); returns it and the wish to stop.

    lm_head has many more rows than a layer's products: it is multiplied in turns, as `partial` has room for.
    """
    begun, rank = 0, anew(comm.rank)  # or what follows from it would take registers all the time
    while begun < plan.lm_head_tiles:
        tiles = min(plan.lm_head_turn, plan.lm_head_tiles - begun)
        first, pairs = pairs_of(begun, plan.lm_head_splits), pairs_of(tiles, plan.lm_head_splits)
        sync_workers(plan)
        stages = stages_of(plan, LM_HEAD) - begun if begun + tiles == plan.lm_head_tiles else tiles
        product = product_of(plan, stages, pairs // 2, plan.lm_head_splits, plan.lm_head_columns, plan.low_terms)
        multiply(plan, stream, block.x, block.partial, product)
        sync_workers(plan)
        at = anew(generated) * plan.vocab
        keep_logits(plan, block.partial, first, pairs, block.sums, rank, block.logits, record, at)
        begun += tiles
    sync_workers(plan)
    first_token = rank * plan.vocab + block_index() * plan.lm_head_rows
    return choose(plan, comm, ballot, block.logits, first_token, request, position, stop, limits)


@function
def generate(plan, stream, block, comm, channels, resident, cache, ballot, request, host, fed, step):
    """Feeds the prompt from token `fed` on, then every token that it chooses (block).

    step: of the first layer, see `decode_layer`. Returns how many passes it took; the block's flags say why the request
    ended.
    """
    limits = limits_of(comm)
    token, reason = request.prompt[fed], int64(RUNNING)
    position = begin = uint32(request.start + fed)
    if fed == 0:  # a prompt's passes have done so, too
        clear_page(plan, cache, position)
    while reason == RUNNING:
        stop = wish_of_host(comm, host.control)
        begin_token(plan, resident, block, token, position)
        layer = uint32(0)
        while layer < plan.layers:
            decode_layer(plan, stream, block, comm, resident, cache, channels, layer, position, step, limits)
            layer, step = uint32(layer + 1), step + 1
        wish = False
        fed = anew(position) - request.start + 1  # this pass's token too
        generated = fed - request.prompt_count  # before this pass, once it is not below 0
        if generated >= 0:
            token, wish = next_token(
                plan, stream, block, comm, ballot, request, host.record, generated, position, stop, limits
            )
            if block_index() == 0 and thread_index() == 0 and token != NO_TOKEN:
                store_relaxed(host.tokens, generated, token)
                store_relaxed(host.times, generated, clock())
        else:
            token = request.prompt[fed]
            if fed % STOP_INTERVAL == 0:
                wish = agree_to_stop(plan, comm, ballot, stop, limits)
        position = uint32(position + 1)
        reason = has_ended(plan, request, block, generated + 1, token, wish, limits)
    return uint32(position - begin)


@kernel
def decode(
    plan,
    comm,
    channels,
    prompt_plan,
    prompt_comm,
    prompt_x,
    prompt_rows,
    prompt_squares,
    prompt_queries,
    prompt_sums,
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
    why_ended,
    tokens,
    times,
    record,
    epochs,
    trace,
):
    """Decodes one request; launched by DecodeLoop (shmemtp/loop.py).

    channels: uint32, what this PE's blocks tell each other (`plan.channel_*`). prompt_plan: a prompt's passes; they
    have a communicator of their own, whose slots no other passes use. prompt_x to prompt_sums: see Shown.
    weights to biases, and rope: see Resident.
    head_norms: float32 [layers, 2, head_dim], of queries and keys. keys, values: see cache.Cache. votes and what
    belongs to them: see Ballot. prompt to seed: see Request. control and tokens to record, trace: see Host. why_ended:
    int64 [1], mapped, see request.py. epochs: int64 [2], carried on.
    """
    request = Request(prompt, prompt_count, start, max_new, stops, temperature, top_p, seed)
    cache = Cache(keys, values, head_norms)
    resident = Resident(weights, embedding, norms, biases, rope)
    host = Host(control, tokens, times, record, trace)
    ballot = Ballot(
        votes,
        vote_outbox,
        vote_signals,
        shared(plan.shared_keys, plan.warps + 1, uint64),
        shared(plan.shared_numbers, plan.warps + 4, float32),
        shared(plan.shared_epoch, 1, int64),
    )
    if thread_index() == 0:
        ballot.epoch[0] = epochs[VOTE_EPOCH]  # for after the barrier with which passes begin
    fed, reason, layers, passes_taken = int64(0), int64(RUNNING), int64(0), uint32(0)
    if prompt_plan.tokens > 0 and prompt_count > 2:
        passes = open_passes(prompt_plan, local(CONTEXT_STATE_FIELDS, uint32))
        shown = Shown(prompt_x, prompt_rows, prompt_squares, prompt_queries, prompt_sums)
        prefill(
            *(prompt_plan, passes, prompt_comm, resident),
            *(cache, shown, ballot, request, control, uint32(epochs[STEP_EPOCH])),
        )
        end_passes(prompt_plan, passes)
        fed, reason = passes.flags[FED_FLAG], passes.flags[REASON_FLAG]
        layers = layers_of(prompt_plan, fed)
    step = epochs[STEP_EPOCH] + layers  # if the request has ended, block 0 may have changed it: others need it no more
    if reason == RUNNING:
        block = open_block(plan, trace)
        stream = open_ring(plan, local(STATE_FIELDS, uint32))
        if is_feeder(plan):
            feed(plan, stream, weights, cache, prompt_count - 1 - fed, uint32(start + fed))
        else:
            passes_taken = generate(
                plan, stream, block, comm, channels, resident, cache, ballot, request, host, fed, step
            )
            close_stream(plan, stream)
        end_stream(plan, stream)
        reason = block.flags[REASON_FLAG]
    if block_index() == 0 and thread_index() == 0:
        epochs[STEP_EPOCH] += layers + passes_taken * plan.layers
        epochs[VOTE_EPOCH] = ballot.epoch[0]
        store_release(why_ended, 0, reason)
