"""Matrix times vector, fed by the weight stream."""

from collections import namedtuple

from .backend import float32, function, int64, lane_index, multiply_rows, uint32
from .stream import TILE, release_tile, wait_tile

Product = namedtuple("Product", "tiles splits columns low")
Product.__doc__ = """A matrix in the stream: its tiles in a block, the tiles of a row pair, a tile's columns."""


@function
def column_parallel(plan, attention):
    """The first product of a layer's half: qkv or gate_up."""
    if attention:
        return Product(plan.qkv_tiles, plan.qkv_splits, plan.qkv_columns, plan.low_terms)
    return Product(plan.gate_up_tiles, plan.gate_up_splits, plan.gate_up_columns, plan.low_terms)


@function
def row_parallel(plan, attention):
    """The second product of a layer's half: o or down."""
    if attention:
        return Product(plan.o_tiles, plan.o_splits, plan.o_columns, 0)
    return Product(plan.down_tiles, plan.down_splits, plan.down_columns, 0)


@function
def multiply(plan, stream, x, partial, product):
    """The block's row pairs of one matrix times `x` (warp; the block's warps share the tiles).

    x: uint16 bf16 [splits * columns] in shared memory. partial: float32 [tiles, 2] in shared memory, gets the two rows'
    sums over each tile's columns; `row_pair` adds a pair's tiles. The caller's `sync_block` must stand between writing
    x and this, and between this and reading `partial`.
    """
    width = product.splits * product.columns
    start = int64(uint32(stream.state[TILE]) % uint32(product.splits)) * product.columns
    step = int64(uint32(plan.warps) % uint32(product.splits)) * product.columns
    while stream.state[TILE] < product.tiles:
        tile = stream.state[TILE]
        at = wait_tile(plan, stream)
        upper, lower = multiply_rows(stream.ring, at, x, start, product.columns, product.low)
        release_tile(plan, stream)
        if lane_index() == 0:
            partial[2 * tile] = upper
            partial[2 * tile + 1] = lower
        start += step
        if start >= width:
            start -= width
    stream.state[TILE] -= product.tiles


@function
def row_pair(partial, pair, splits):
    """The two rows' products of the block's pair number `pair` (thread)."""
    upper, lower = float32(0), float32(0)
    for split in range(splits):
        upper += partial[2 * (pair * splits + split)]
        lower += partial[2 * (pair * splits + split) + 1]
    return upper, lower
