"""Products of bf16 rows. The contract is in ../README.md."""

from .bits import as_float32
from .meetings import warp_sum
from .vectors import load_pair, load_vector
from .words import float32, function, lane_index, uint32, warp_size

__all__ = ["add_products", "begin_products", "lane_places", "multiply_rows", "store_products"]

WIDTH = 64  # columns of what `add_products` takes


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
def begin_products(totals, rows, vectors):
    """A lane has every warp_size()-th product of a row and a vector, of a vector all rows first (warp)."""
    for i in range((rows * vectors + warp_size() - 1) // warp_size()):
        totals[i] = float32(0)


@function
def add_products(totals, tiles, at, x, start, rows, vectors):
    """The products of one tile of rows and one of vectors, WIDTH columns of each (warp)."""
    for i in range(lane_index(), rows * vectors, warp_size()):
        row, vector, total = i % rows, i // rows, totals[i // warp_size()]
        v = start + (vector // 16 * 8 + vector % 8) * (2 * WIDTH)
        for column in range(0, WIDTH, 8):
            a, b, c, d = load_vector(x, v + 2 * column + 8 * (vector & 1))
            e, f, g, h = load_vector(x, v + 2 * column + 8 * (~vector & 1))
            eight = (b, d, f, h) if vector & 8 else (a, c, e, g)
            total = _add_products(load_vector(tiles, at + row * WIDTH + _swapped(row, column)), eight, total)
        totals[i // warp_size()] = total


@function
def store_products(totals, rows, vectors, sums, to, stride):
    """The lane's products (warp)."""
    for i in range(lane_index(), rows * vectors, warp_size()):
        sums[to + i // rows * stride + i % rows] = totals[i // warp_size()]
