"""Matrix times vector, fed by the weight stream."""

from collections import namedtuple

from .backend import as_float32, float32, function, int64, lane_places, load_vector, multiply_rows, uint32, uint64
from .sequence import DOWN, GATE_UP, GROUP, O_PROJ, QKV, TILE_ROWS, stages_of
from .stream import TILE, release_tile, wait_tile

Product = namedtuple("Product", "stages splits columns low whole split_inverse rest_inverse")
Product.__doc__ = """A matrix in the stream, uint32: the stages that a block's tiles take, the splits of its columns, a
tile's columns.

low: where the low terms of its input stand behind the high ones, in elements; 0 if there are none. whole: the tiles of
whole groups. split_inverse, rest_inverse: of `quotient`, of the splits and of the quads that the last group has.
"""
SHIFT = 31


@function
def inverse_of(divisor):
    """For `quotient` (thread)."""
    return uint32((uint64(1 << SHIFT) + uint64(divisor - 1)) // uint64(divisor))


@function
def quotient(number, inverse):
    """`number` // the divisor of `inverse`, where number * divisor is below 2^31: no division remains (thread)."""
    return uint32((uint64(number) * uint64(inverse)) >> uint64(SHIFT))


@function
def product_of(plan, stages, quads, splits, columns, low):
    """quads: of the block, or of lm_head's turn; else they are a constant, as splits are: no division remains."""
    whole, rest = uint32(quads // GROUP * GROUP * splits), uint32(max(1, quads % GROUP))
    return Product(
        *(uint32(stages), uint32(splits), uint32(columns), uint32(low), whole, inverse_of(splits), inverse_of(rest))
    )


@function
def qkv_product(plan):
    quads, columns = plan.qkv_local // 2, plan.qkv_columns
    return product_of(plan, stages_of(plan, QKV), quads, plan.qkv_splits, columns, plan.low_terms)


@function
def o_product(plan):
    return product_of(plan, stages_of(plan, O_PROJ), plan.hidden_local // 2, plan.o_splits, plan.o_columns, 0)


@function
def gate_up_product(plan):
    quads, columns = plan.gate_up_local // 2, plan.gate_up_columns
    return product_of(plan, stages_of(plan, GATE_UP), quads, plan.gate_up_splits, columns, plan.low_terms)


@function
def down_product(plan):
    return product_of(plan, stages_of(plan, DOWN), plan.hidden_local // 2, plan.down_splits, plan.down_columns, 0)


@function
def multiply(plan, stream, x, partial, product):
    """The block's rows of one matrix times a vector (warp; the block's warps share the tiles).

    x: uint16 bf16 in shared memory, splits * columns, as product_input.py has them. partial: float32 [stages,
    TILE_ROWS] in shared memory, gets the rows' sums over each tile's columns; `row_pair` adds a pair's tiles. A stage
    without a tile is multiplied like the others: nobody reads what becomes of it. The caller's `sync_workers` must
    stand between writing x and this, and between this and reading `partial`.
    """
    start, places = start_of(product, stream.state[TILE]), lane_places(product.columns, product.low)
    while stream.state[TILE] < product.stages:
        tile = stream.state[TILE]
        at = wait_tile(plan, stream, product.columns)
        following = start_of(product, uint32(tile + plan.warps))  # while this tile's loads are under way
        multiply_rows(
            *(stream.ring, at, x, start),
            *(product.columns, product.low, places, partial, TILE_ROWS * tile),
        )
        release_tile(plan, stream)
        start = following
    stream.state[TILE] -= product.stages


@function
def start_of(product, tile):
    """Where a block's tile meets the input: see `Product.tile_number` in shmemtp/product.py (thread)."""
    is_whole = tile < product.whole
    number = quotient(
        uint32(tile if is_whole else tile - product.whole), inverse_of(GROUP) if is_whole else product.rest_inverse
    )
    return uint32(uint32(number - quotient(number, product.split_inverse) * product.splits) * product.columns)


@function
def pairs_of(tiles, splits):
    """How many row pairs so many tiles are (thread)."""
    return tiles // splits * (TILE_ROWS // 2)


@function
def row_pair(partial, pair, quads, splits):
    """The two rows of the block's pair number `pair`: sums of `splits` tiles (thread).

    splits: a constant, so that all loads are under way before the first sum.
    """
    upper, lower = float32(0), float32(0)
    first, step = _rows_of(pair >> 1, quads, splits)
    first += 2 * (pair & 1)
    for split in range(splits):
        upper += partial[first + split * step]
        lower += partial[first + split * step + 1]
    return upper, lower


@function
def row_quad(partial, quad, quads, splits):
    """Both pairs of the block's quad number `quad`, as `row_pair` (thread)."""
    a, b, c, d = float32(0), float32(0), float32(0), float32(0)
    first, step = _rows_of(quad, quads, splits)
    for split in range(splits):
        p, q, r, s = load_vector(partial, first + split * step)
        a, b, c, d = a + as_float32(p), b + as_float32(q), c + as_float32(r), d + as_float32(s)
    return a, b, c, d


@function
def _rows_of(quad, quads, splits):
    """Where a quad's first tile stands in `partial`, and how far it is from a tile to the next (thread)."""
    quad = uint32(quad)
    first = int64(uint32(quad // uint32(GROUP) * uint32(GROUP)))
    step = uint32(GROUP if quads % GROUP == 0 else min(GROUP, quads - first))
    return int64(uint32(TILE_ROWS * (first * splits + (quad - first)))), int64(TILE_ROWS * step)
