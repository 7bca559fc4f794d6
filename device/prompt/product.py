"""A matrix times the inputs of all tokens of a pass.

A warp has the sums of some rows and some tokens in its registers, from the first column to the last one. Where a block
has too few rows for all of its warps, they divide a step's slices as well, and their sums are added in the end.
"""

from ..backend import (
    add_products,
    anew,
    as_float32,
    await_copies,
    begin_products,
    commit_copies,
    float32,
    function,
    load_pair,
    local,
    store_products,
    thread_index,
    uint32,
    warp_index,
)
from ..sequence import select
from ..workers import sync_workers
from .ring import (
    SLICE,
    begin_landings,
    end_landings,
    fetch_inputs,
    fetch_weights,
    parts_of,
    places_of,
    room_for_rows,
    rows_of,
    slice_place,
    slices_of,
    tokens_of,
    wait_inputs,
)


@function
def steps_of(plan, product):
    """In how many steps a product's columns are read (thread)."""
    return uint32(slices_of(plan, product) // parts_of(plan, product))


@function
def ahead_of(plan, product):
    """How many steps are under way while one is multiplied (thread)."""
    return uint32(places_of(plan, product) - 1)


@function
def warp_rows(plan, product):
    """How many rows a warp has (thread)."""
    return select(plan, product, plan.qkv_warp_rows, plan.o_warp_rows, plan.gate_up_warp_rows, plan.down_warp_rows, 8)


@function
def share_of(plan, product):
    """The warp's slice of a step, its first row and first token (thread). Warps too many do what another one does."""
    groups = uint32(plan.block_tokens // plan.vectors)
    row_groups = uint32(room_for_rows(plan, product) // warp_rows(plan, product))
    warp = anew(warp_index())  # what follows from it would take registers beside the sums
    number, group = uint32(warp // groups), uint32(warp % groups)
    part, row_group = uint32(number // row_groups), uint32(number % row_groups)
    part = uint32(part % uint32(parts_of(plan, product)))
    return part, uint32(row_group * warp_rows(plan, product)), uint32(group * plan.vectors)


@function
def begin_product(plan, ring, weights, product, layer):
    """Starts the copies of the first weights, which need no inputs (block; its barrier must follow)."""
    if thread_index() == 0:
        end_landings(ring)
        begin_landings(ring)
    step = uint32(0)
    while step < ahead_of(plan, product) and rows_of(plan, product) > 0:
        fetch_weights(plan, ring, weights, product, layer, step)
        commit_copies()
        step = uint32(step + 1)


@function
def multiply(plan, ring, weights, x, product, layer, count, partial):
    """The block's rows of a product times the inputs of its tokens, behind its `begin_product` (block).

    count: tokens of the pass. partial: float32 in the ring's memory, which `row_pair` reads. What becomes of tokens
    that the pass has not, and of rows that the block has not, nobody reads.
    """
    steps, ahead = steps_of(plan, product), ahead_of(plan, product)
    part, row, token = share_of(plan, product)
    rows = warp_rows(plan, product)
    totals = local(plan.warp_products, float32)
    begin_products(totals, rows, plan.vectors)
    first = uint32(0) if rows_of(plan, product) > 0 and tokens_of(plan, count)[1] > 0 else steps
    step = first
    while step < ahead and thread_index() == 0:
        fetch_inputs(plan, ring, x, product, step, count)
        step = uint32(step + 1)
    step = first
    while step < steps:
        await_copies(ahead - 1)
        wait_inputs(plan, ring, product, step)
        sync_workers(plan)  # all have read the step before, in whose place another one comes
        another = uint32(anew(step) + ahead)
        if another < steps:
            fetch_weights(plan, ring, weights, product, layer, another)
            if thread_index() == 0:
                fetch_inputs(plan, ring, x, product, another, count)
        commit_copies()
        at = slice_place(plan, product, step, part)
        inputs = uint32(at + (room_for_rows(plan, product) + token) * SLICE)
        add_products(totals, ring.slices, uint32(at + row * SLICE), ring.slices, inputs, rows, plan.vectors)
        step = uint32(step + 1)
    await_copies(0)
    sync_workers(plan)
    to = uint32(sum_place(plan, product, part, token) + row)
    store_products(totals, rows, plan.vectors, partial, to, sum_stride(plan, product))
    sync_workers(plan)


@function
def sum_stride(plan, product):
    """Floats from a token's sums to the next one's (thread)."""
    return select(plan, product, plan.qkv_sums, plan.o_sums, plan.gate_up_sums, plan.down_sums, 0)


@function
def sum_place(plan, product, part, token):
    """Where `partial` has the sums of a token, of all rows (thread)."""
    return uint32(uint32(part * plan.block_tokens + token) * uint32(sum_stride(plan, product)))


@function
def row_pair(plan, product, partial, pair, token):
    """The two rows of the block's pair number `pair` times token number `token` (thread)."""
    upper, lower = float32(0), float32(0)
    for part in range(parts_of(plan, product)):
        a, b = load_pair(partial, sum_place(plan, product, part, token) + 2 * pair)
        upper += as_float32(a)
        lower += as_float32(b)
    return upper, lower
