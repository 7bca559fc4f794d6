"""Matrix times vector, fed by the weight stream."""

from .backend import float32, function, lane_index, multiply_rows
from .stream import TILE, release_tile, wait_tile


@function
def multiply(plan, stream, x, partial, first, tiles, splits, columns):
    """The block's row pairs of one matrix times `x` (warp; the block's warps share the tiles).

    x: uint16 bf16 [splits * columns] in shared memory. partial: float32 [tiles, 2] in shared memory, gets the two rows'
    sums over each tile's columns; `row_pair` adds a pair's tiles. first: the matrix's first tile in the token. The
    caller's `sync_block` must stand between writing x and this, and between this and reading `partial`.
    """
    while stream.state[TILE] < first + tiles:
        at = wait_tile(plan, stream)
        tile = stream.state[TILE] - first
        start = (tile % splits) * columns
        upper, lower = multiply_rows(stream.ring, at, x, start, columns)
        release_tile(plan, stream)
        if lane_index() == 0:
            partial[2 * tile] = upper
            partial[2 * tile + 1] = lower


@function
def row_pair(partial, pair, splits):
    """The two rows' products of the block's pair number `pair` (thread)."""
    upper, lower = float32(0), float32(0)
    for split in range(splits):
        upper += partial[2 * (pair * splits + split)]
        lower += partial[2 * (pair * splits + split) + 1]
    return upper, lower
