"""Products of bf16 rows. The contract is in ../README.md."""

from .memory import load_vector
from .words import as_float32, float32, function, lane_index, uint32, warp_size, warp_sum

__all__ = ["multiply_rows"]


@function
def _add_products(w, x, total):
    """`total` plus eight bf16 values times eight, both four words."""
    for i in range(4):
        total += as_float32(uint32(w[i] << uint32(16))) * as_float32(uint32(x[i] << uint32(16)))
        total += as_float32(uint32(w[i] & uint32(0xFFFF0000))) * as_float32(uint32(x[i] & uint32(0xFFFF0000)))
    return total


@function
def multiply_rows(rows, at, x, start, columns):
    """Two bf16 rows times a bf16 vector (warp); every lane gets both sums."""
    upper, lower = float32(0), float32(0)
    for column in range(8 * lane_index(), columns, 8 * warp_size()):
        values = load_vector(x, start + column)
        upper = _add_products(load_vector(rows, at + column), values, upper)
        lower = _add_products(load_vector(rows, at + columns + column), values, lower)
    return warp_sum(upper), warp_sum(lower)
