"""A prompt's passes: `plan.tokens` of its tokens through all layers at a time. It reads like the model it runs.

Every weight is read once a pass. What a product needs of other blocks stands in device memory, and the blocks meet
before it; the weights of the next product come meanwhile.
"""

from collections import namedtuple

from ..backend import (
    anew,
    barrier_arrive,
    bulk_fence,
    float32,
    function,
    int64,
    shared,
    thread_index,
    uint32,
)
from ..communicator import limits_of
from ..grid import meet_blocks
from ..norm import prefetch_norms
from ..request import FED_FLAG, RUNNING, has_ended, wish_of_host
from ..sequence import DOWN, GATE_UP, O_PROJ, QKV
from ..vote import agree_to_stop
from ..workers import sync_workers
from .attention import attend, merge_parts
from .context import end_context, open_context
from .hidden import add_sums, embed, load_factors, show_hidden
from .product import multiply
from .rows import place_heads, store_activations, store_rows
from .sequence import quads_of
from .stream import NONE

Block = namedtuple("Block", "partial residual factors counts context flags")
Block.__doc__ = """A block's shared memory beside the stream's. partial: see `product.multiply`. residual: float32
[tokens, hidden_local, 2], the block's pairs of the hidden states. factors: float32 [tokens], 1 / rms. counts: uint32
[band], see `attention.attend`. context: see context.py. flags: int64 [2], see request.py."""
Shown = namedtuple("Shown", "x rows squares queries sums")
Shown.__doc__ = """Device memory by which this PE's blocks tell each other. x: uint32 bf16 pairs, the inputs of products
from `plan.x_qkv`, `x_o`, `x_gate_up` and `x_down` on (`stream.input_word`). rows: float32 [tokens, qkv rows].
squares: float32 [tokens, grid]. queries, sums: see `attention.attend`."""


@function
def open_block(plan, state):
    """The block's shared memory as `plan` divides it, before the stream's (all threads). state: of `open_context`."""
    return Block(
        shared(plan.shared_partial, plan.partial_count, float32),
        shared(plan.shared_residual, 2 * plan.hidden_local * plan.tokens, float32),
        shared(plan.shared_factors, plan.tokens, float32),
        shared(plan.shared_counts, plan.band, uint32),
        open_context(plan, state),
        shared(plan.shared_flags, 2, int64),
    )


@function
def meet(plan, comm, stream, product):
    """All blocks meet: what each wrote, the others' threads and copy engines can read (block).

    product: the one whose inputs are then all there, or NONE. A block that has no row of it tells its feeder nothing,
    which might be still behind: two phases of `opened` could pass before it looks.
    """
    sync_workers(plan)
    if thread_index() == 0:
        meet_blocks(comm)
        bulk_fence()
        if quads_of(plan, product) > 0:
            barrier_arrive(stream.opened, 0)
    sync_workers(plan)


@function
def decode_layers(plan, stream, block, comm, resident, cache, shown, first, position, count, prompt, step):
    """`count` tokens from prompt token `first` on, of which the first is at `position`, through all layers (block).

    step: uint32, how many layers of how many passes came before, since the memory was made.
    """
    embed(plan, resident.embedding, prompt, first, count, block.residual)
    show_hidden(plan, resident.norms, 0, block.residual, count, shown.x, shown.squares)
    meet(plan, comm, stream, QKV)
    for layer in range(plan.layers):
        for row in range(2 * layer + 1, 2 * layer + 3):
            prefetch_norms(plan, resident.norms, row)
        load_factors(plan, shown.squares, block.factors)
        multiply(plan, stream, QKV, count, block.partial)
        sync_workers(plan)
        store_rows(plan, block.partial, block.factors, resident.biases, layer, count, shown.rows)
        meet(plan, comm, stream, NONE)
        count = anew(count)  # what follows from it takes registers, which attention needs
        place_heads(plan, cache, resident.rope, shown.rows, layer, position, count, shown.queries)
        meet(plan, comm, stream, NONE)
        attend(plan, cache, shown.queries, block.counts, block.context, layer, position, count, shown.sums)
        meet(plan, comm, stream, NONE)
        count = anew(count)
        merge_parts(plan, shown.sums, position, count, shown.x)
        meet(plan, comm, stream, O_PROJ)
        multiply(plan, stream, O_PROJ, count, block.partial)
        sync_workers(plan)
        add_sums(plan, comm, O_PROJ, block.partial, block.residual, count, uint32(2 * (step + layer)))
        show_hidden(plan, resident.norms, 2 * layer + 1, block.residual, count, shown.x, shown.squares)
        meet(plan, comm, stream, GATE_UP)
        load_factors(plan, shown.squares, block.factors)
        multiply(plan, stream, GATE_UP, count, block.partial)
        sync_workers(plan)
        store_activations(plan, block.partial, block.factors, count, shown.x)
        meet(plan, comm, stream, DOWN)
        multiply(plan, stream, DOWN, count, block.partial)
        sync_workers(plan)
        add_sums(plan, comm, DOWN, block.partial, block.residual, count, uint32(2 * (step + layer) + 1))
        if layer + 1 < plan.layers:
            show_hidden(plan, resident.norms, 2 * layer + 2, block.residual, count, shown.x, shown.squares)
            meet(plan, comm, stream, QKV)
    sync_workers(plan)


@function
def prefill(plan, stream, block, comm, resident, cache, shown, ballot, request, control, step):
    """Feeds the prompt's tokens before its last one; one may be left for `generate` (block).

    control: see decode.Host. step: of the first layer, see `decode_layers`. The block's flags say how many tokens were
    fed, and why the request ended, if it did.
    """
    limits = limits_of(comm)
    fed, reason = uint32(0), int64(RUNNING)
    while reason == RUNNING and request.prompt_count - 1 - fed > 1:
        count = uint32(min(plan.tokens, request.prompt_count - 1 - fed))
        decode_layers(
            *(plan, stream, block, comm, resident, cache, shown),
            *(fed, uint32(request.start + fed), count, request.prompt, step),
        )
        step = uint32(step + plan.layers)
        fed = uint32(fed + count)
        wishes = agree_to_stop(plan, comm, ballot, wish_of_host(comm, control), limits)
        reason = has_ended(plan, request, block, 0, 0, wishes, limits)
    if thread_index() == 0:
        block.flags[FED_FLAG] = int64(fed)
        end_context(plan, block.context)


@function
def layers_of(plan, fed):
    """How many layers the passes of `fed` tokens went through (thread)."""
    return int64(plan.layers * (uint32(fed + (plan.tokens - 1)) // uint32(plan.tokens)))
