"""Matrix times vector, fed by the weight stream."""

from .backend import float32, function, lane_index, load_vector, warp_size, warp_sum
from .bfloat16 import dot
from .stream import TILE, release_tile, wait_tile


@function
def multiply(plan, stream, x, partial, first, tiles, splits, columns):
    """The block's row pairs of one matrix times `x` (warp; the block's warps share the tiles).

    x: uint16 bf16 [splits * columns] in shared memory. partial: float32 [tiles, 2] in shared memory, gets the two rows'
    sums over each tile's columns; `row_pair` adds a pair's tiles. first: the matrix's first tile in the token. The
    caller's `sync_block` must stand between writing x and this, and between this and reading `partial`.
    """
    step = warp_size() * 8
    while stream.state[TILE] < first + tiles:
        at = wait_tile(plan, stream)
        tile = stream.state[TILE] - first
        start = (tile % splits) * columns
        upper, lower = float32(0), float32(0)
        for i in range((columns + step - 1) // step):
            column = i * step + lane_index() * 8
            if column < columns:
                values = load_vector(x, start + column)
                upper = dot(load_vector(stream.ring, at + column), values, upper)
                lower = dot(load_vector(stream.ring, at + columns + column), values, lower)
        release_tile(plan, stream)
        upper, lower = warp_sum(upper), warp_sum(lower)
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
