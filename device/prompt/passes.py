"""A prompt's passes: `plan.tokens` of its tokens through all layers at a time. It reads like the model it runs.

Every weight is read once a pass. What a product needs of other blocks stands in device memory, and the blocks meet
before it; the weights of the next product come meanwhile. A block's threads are all workers here, the feeder's too.
"""

from collections import namedtuple

from ..backend import (
    anew,
    barrier_fence,
    bulk_fence,
    float32,
    function,
    int64,
    shared,
    thread_index,
    uint32,
)
from ..communicator import limits_of
from ..grid import arrive, await_blocks
from ..norm import prefetch_norms
from ..request import FED_FLAG, RUNNING, has_ended, wish_of_host
from ..sequence import DOWN, GATE_UP, O_PROJ, QKV
from ..vote import agree_to_stop
from ..workers import sync_workers
from .attention import attend, merge_parts
from .context import end_context, open_context
from .hidden import add_sums, embed, load_factors, show_hidden
from .product import begin_product, multiply
from .ring import end_landings, open_ring
from .rows import place_heads, store_activations, store_rows

Block = namedtuple("Block", "ring partial context residual factors counts flags")
Block.__doc__ = """A block's shared memory. ring: see ring.py; in its memory lie partial, see `product.multiply`, and
context, see context.py, at other times. residual: float32 [block_tokens, hidden_local, 2], the block's pairs of the
hidden states of its tokens (`ring.tokens_of`). factors: float32 [block_tokens], 1 / rms. counts: uint32 [band], see
`attention.attend`. flags: int64 [2], see request.py."""
Shown = namedtuple("Shown", "x rows squares queries sums")
Shown.__doc__ = """Device memory by which this PE's blocks tell each other. x: uint32 bf16 pairs, the inputs of products
from `plan.x_qkv`, `x_o`, `x_gate_up` and `x_down` on (`ring.input_word`). rows: float32 [tokens, qkv rows].
squares: float32 [tokens, sets]. queries, sums: see `attention.attend`."""


@function
def open_block(plan, context_state):
    """The block's shared memory as `plan` divides it (all threads). context_state: `local`, the caller's own."""
    block = Block(
        open_ring(plan),
        shared(plan.shared_ring, plan.partial_count, float32),
        open_context(plan, context_state),
        shared(plan.shared_residual, 2 * plan.hidden_local * plan.block_tokens, float32),
        shared(plan.shared_factors, plan.block_tokens, float32),
        shared(plan.shared_counts, plan.band, uint32),
        shared(plan.shared_flags, 2, int64),
    )
    barrier_fence()
    sync_workers(plan)
    return block


@function
def end_block(plan, block):
    """The memory may serve others (all threads)."""
    sync_workers(plan)
    if thread_index() == 0:
        end_landings(block.ring)
        end_context(plan, block.context)
    sync_workers(plan)


@function
def meet(plan, comm):
    """All blocks meet: what each wrote, the others' threads and copy engines can read (block)."""
    sync_workers(plan)
    if thread_index() == 0:
        await_all(comm, arrive(comm))
    sync_workers(plan)


@function
def await_all(comm, before):
    """The rest of a meeting: what the blocks wrote, this one's copy engine can read. before: of `arrive` (thread)."""
    await_blocks(comm, before)
    bulk_fence()


@function
def meet_before(plan, comm, block, weights, product, layer):
    """`meet` before a product, whose first weights come meanwhile where the ring has held sums (block)."""
    barrier_fence()
    sync_workers(plan)
    before = arrive(comm) if thread_index() == 0 else int64(0)
    begin_product(plan, block.ring, weights, product, layer)
    if thread_index() == 0:
        await_all(comm, before)
    sync_workers(plan)


@function
def decode_layers(plan, block, comm, resident, cache, shown, first, position, count, prompt, step):
    """`count` tokens from prompt token `first` on, of which the first is at `position`, through all layers (block).

    step: uint32, how many layers of how many passes came before, since the memory was made.
    """
    ring, weights, norms, partial = block.ring, resident.weights, resident.norms, block.partial
    embed(plan, resident.embedding, prompt, first, count, block.residual)
    show_hidden(plan, norms, 0, block.residual, count, shown.x, shown.squares)
    meet_before(plan, comm, block, weights, QKV, uint32(0))
    layer = uint32(0)
    while layer < plan.layers:
        for half in range(1, 3):
            prefetch_norms(plan, norms, 2 * layer + half)
        load_factors(plan, shown.squares, count, block.factors)
        multiply(plan, ring, weights, shown.x, QKV, layer, count, partial)
        store_rows(
            *(plan, partial, block.factors, resident.biases, cache, resident.rope, layer, position, count),
            *(shown.queries, shown.rows),
        )
        barrier_fence()  # where the sums were, the copy engine brings the context
        if plan.qk_norm:
            meet(plan, comm)
            place_heads(plan, cache, resident.rope, shown.rows, layer, position, count, shown.queries)
        meet(plan, comm)
        count = anew(count)  # what follows from it would take registers all the time
        attend(plan, cache, shown.queries, block.counts, block.context, layer, position, count, shown.sums)
        meet(plan, comm)
        count = anew(count)
        merge_parts(plan, shown.sums, position, count, shown.x)
        meet_before(plan, comm, block, weights, O_PROJ, layer)
        multiply(plan, ring, weights, shown.x, O_PROJ, layer, count, partial)
        count = anew(count)
        add_sums(plan, comm, O_PROJ, partial, block.residual, count, uint32(2 * (step + layer)))
        show_hidden(plan, norms, 2 * layer + 1, block.residual, count, shown.x, shown.squares)
        meet_before(plan, comm, block, weights, GATE_UP, layer)
        load_factors(plan, shown.squares, count, block.factors)
        multiply(plan, ring, weights, shown.x, GATE_UP, layer, count, partial)
        store_activations(plan, partial, block.factors, count, shown.x)
        meet_before(plan, comm, block, weights, DOWN, layer)
        multiply(plan, ring, weights, shown.x, DOWN, layer, count, partial)
        count = anew(count)
        add_sums(plan, comm, DOWN, partial, block.residual, count, uint32(2 * (step + layer) + 1))
        if layer + 1 < plan.layers:
            show_hidden(plan, norms, 2 * layer + 2, block.residual, count, shown.x, shown.squares)
            meet_before(plan, comm, block, weights, QKV, uint32(layer + 1))
        layer = uint32(layer + 1)
    sync_workers(plan)


@function
def prefill(plan, block, comm, resident, cache, shown, ballot, request, control, step):
    """Feeds the prompt's tokens before its last one; one may be left for `generate` (block).

    control: see decode.Host. step: of the first layer, see `decode_layers`. The block's flags say how many tokens were
    fed, and why the request ended, if it did.
    """
    limits = limits_of(comm)
    fed, reason = uint32(0), int64(RUNNING)
    while reason == RUNNING and request.prompt_count - 1 - fed > 1:
        count = uint32(min(plan.tokens, request.prompt_count - 1 - fed))
        decode_layers(
            *(plan, block, comm, resident, cache, shown),
            *(fed, uint32(request.start + fed), count, request.prompt, step),
        )
        step = uint32(step + plan.layers)
        fed = uint32(fed + count)
        wishes = agree_to_stop(plan, comm, ballot, wish_of_host(comm, control), limits)
        reason = has_ended(plan, request, block, 0, 0, wishes, limits)
    if thread_index() == 0:
        block.flags[FED_FLAG] = int64(fed)


@function
def layers_of(plan, fed):
    """How many layers the passes of `fed` tokens went through (thread)."""
    return int64(plan.layers * (uint32(fed + (plan.tokens - 1)) // uint32(plan.tokens)))
