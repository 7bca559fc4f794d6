"""Products of bf16 rows. The contract is in ../README.md."""

from .bits import as_float32
from .meetings import warp_sum
from .vectors import load_pair, load_vector
from .words import float32, function, lane_index, uint32, warp_size

__all__ = ["lane_places", "multiply_rows", "multiply_tiles"]


@function
def _add_products(w, x, total):
    """`total` plus eight bf16 values times eight, both four words."""
    for i in range(4):
        total += as_float32(uint32(w[i] << uint32(16))) * as_float32(uint32(x[i] << uint32(16)))
        total += as_float32(uint32(w[i] & uint32(0xFFFF0000))) * as_float32(uint32(x[i] & uint32(0xFFFF0000)))
    return total


@function
def lane_places(columns, low):
    """A lane finds its columns as it comes to them."""
    return uint32(0), uint32(0)


@function
def multiply_rows(rows, at, x, start, columns, low, places, sums, to):
    """Four bf16 rows times a bf16 vector, or one of two bf16 terms, into `sums` (warp)."""
    for row in range(4):
        total = float32(0)
        for column in range(8 * lane_index(), columns, 8 * warp_size()):
            w = load_vector(rows, at + row * columns + _swapped(row, column))
            total = _add_products(w, _in_order(load_vector(x, start + column)), total)
            if low > 0:
                behind = start + low + column
                total = _add_products(w, _in_order(load_pair(x, behind) + load_pair(x, behind + 4)), total)
        total = warp_sum(total)
        if lane_index() == 0:
            sums[to + row] = total


@function
def _in_order(words):
    """Four pairs of a vector, of which the middle two stand in each other's place."""
    return words[0], words[2], words[1], words[3]


@function
def _swapped(row, column):
    """Where a row of a tile has a column: odd rows' halves of every 64 columns are swapped."""
    return column ^ 32 if row & 1 else column


@function
def multiply_tiles(tiles, at, tile_columns, x, start, x_stride, columns, vectors, sums, to, sums_stride, add):
    """Four tiles of four rows times some vectors: a lane has every warp_size()-th product (warp)."""
    for i in range(lane_index(), 16 * vectors, warp_size()):
        row, vector, total = i % 16, i // 16, float32(0)
        w, v = at + row * tile_columns, start + (vector // 16 * 8 + vector % 8) * x_stride
        for column in range(0, columns, 8):
            a, b, c, d = load_vector(x, v + 2 * column)
            e, f, g, h = load_vector(x, v + 2 * column + 8)
            eight = (b, d, f, h) if vector & 8 else (a, c, e, g)
            total = _add_products(load_vector(tiles, w + _swapped(row, column)), eight, total)
        place = to + vector * sums_stride + row
        sums[place] = sums[place] + total if add else total
