"""Matrix times vector, fed by the weight stream."""

from collections import namedtuple

from .backend import float32, function, multiply_rows, uint32
from .sequence import DOWN, GATE_UP, O_PROJ, QKV, TILE_ROWS, stages_of
from .stream import TILE, release_tile, wait_tile

Product = namedtuple("Product", "stages splits columns low start step")
Product.__doc__ = """A matrix in the stream, uint32: the stages that a block's tiles take, the tiles of a row, a tile's
columns.

low: where the low terms of its input stand behind the high ones, in elements; 0 if there are none. start: where the
warp's first tile meets the input; step: how much further its next one does, beyond the input's end from its beginning.
"""


@function
def product_of(plan, stream, stages, splits, columns, low):
    """splits: a constant, so that no division by it remains."""
    start, step = uint32(stream.state[TILE] % uint32(splits) * columns), uint32(plan.warps % splits * columns)
    return Product(uint32(stages), uint32(splits), uint32(columns), uint32(low), start, step)


@function
def column_parallel(plan, stream, attention):
    """The first product of a layer's half: qkv or gate_up."""
    if attention:
        return product_of(plan, stream, stages_of(plan, QKV), plan.qkv_splits, plan.qkv_columns, plan.low_terms)
    return product_of(plan, stream, stages_of(plan, GATE_UP), plan.gate_up_splits, plan.gate_up_columns, plan.low_terms)


@function
def row_parallel(plan, stream, attention):
    """The second product of a layer's half: o or down."""
    if attention:
        return product_of(plan, stream, stages_of(plan, O_PROJ), plan.o_splits, plan.o_columns, 0)
    return product_of(plan, stream, stages_of(plan, DOWN), plan.down_splits, plan.down_columns, 0)


@function
def multiply(plan, stream, x, partial, product):
    """The block's rows of one matrix times the pass's vectors (warp; the block's warps share the tiles).

    x: uint16 bf16 in shared memory, `plan.tokens` vectors of splits * columns, `plan.x_stride` apart. partial: float32
    [stages, TILE_ROWS, tokens] in shared memory, gets the rows' sums over each tile's columns; `row_pair` adds a pair's
    tiles. A stage without a tile is multiplied like the others: nobody reads what becomes of it. The caller's
    `sync_workers` must stand between writing x and this, and between this and reading `partial`.
    """
    width = uint32(product.splits * product.columns)
    start = product.start
    while stream.state[TILE] < product.stages:
        tile = stream.state[TILE]
        at = wait_tile(plan, stream, product.columns)
        multiply_rows(
            *(stream.ring, at, x, start, plan.x_stride, plan.tokens),
            *(product.columns, product.low, partial, TILE_ROWS * tile),
        )
        release_tile(plan, stream)
        start = uint32(start + product.step)
        if start >= width:
            start = uint32(start - width)
    stream.state[TILE] -= product.stages


@function
def pairs_of(tiles, splits):
    """How many row pairs so many tiles are (thread)."""
    return tiles // splits * (TILE_ROWS // 2)


@function
def row_pair(plan, partial, pair, token, splits, most):
    """The two rows of the block's pair number `pair` times token number `token` of the pass (thread).

    They are the sums of `splits` tiles, at most `most`.

    most: a constant, so that all loads are under way before the first sum.
    """
    upper, lower = float32(0), float32(0)
    first = uint32(TILE_ROWS * splits * (pair >> 1) + 2 * (pair & 1))
    for split in range(most):
        if split < splits:
            row = first + TILE_ROWS * split
            upper += partial[plan.tokens * row + token]
            lower += partial[plan.tokens * (row + 1) + token]
    return upper, lower
