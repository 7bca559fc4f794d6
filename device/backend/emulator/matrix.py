"""Products of bf16 rows. The contract is in ../README.md."""

from .bits import as_float32
from .vectors import load_pair, load_vector
from .words import float32, function, lane_index, uint32, warp_size, warp_sum

__all__ = ["multiply_rows", "score_keys", "weigh_values"]


@function
def _add_products(w, x, total):
    """`total` plus eight bf16 values times eight, both four words."""
    for i in range(4):
        total += as_float32(uint32(w[i] << uint32(16))) * as_float32(uint32(x[i] << uint32(16)))
        total += as_float32(uint32(w[i] & uint32(0xFFFF0000))) * as_float32(uint32(x[i] & uint32(0xFFFF0000)))
    return total


@function
def multiply_rows(rows, at, x, start, stride, count, columns, low, sums, to):
    """Four bf16 rows times `count` bf16 vectors, or vectors of two bf16 terms, into `sums` (warp)."""
    for row in range(4):
        for n in range(count):
            total = _row_times_vector(rows, at + row * columns, x, start + n * stride, columns, low)
            if lane_index() == 0:
                sums[(to + row) * count + n] = total


@function
def _row_times_vector(rows, at, x, start, columns, low):
    total = float32(0)
    for column in range(8 * lane_index(), columns, 8 * warp_size()):
        w = load_vector(rows, at + column)
        total = _add_products(w, load_vector(x, start + column), total)
        if low > 0:
            behind = start + low + column
            total = _add_products(w, load_pair(x, behind) + load_pair(x, behind + 4), total)
    return warp_sum(total)


@function
def _bf16(bits):
    return as_float32(uint32(uint32(bits) << uint32(16)))


@function
def score_keys(queries, heads, keys, at, head_dim, scores, to, stride):
    """Eight keys times all queries (warp)."""
    for i in range(lane_index(), 8 * heads, warp_size()):
        head, n = i // 8, i % 8
        total = float32(0)
        for d in range(head_dim):
            total += _bf16(queries[head * head_dim + d]) * _bf16(keys[at + n * head_dim + d])
        scores[to + head * stride + n] = total


@function
def weigh_values(weights, heads, stride, values, at, step, granules, head_dim, dimension, result):
    """Eight dimensions of the values times all weights (warp)."""
    for i in range(lane_index(), 8 * heads, warp_size()):
        head, d = i // 8, dimension + i % 8
        total = float32(0)
        for n in range(granules):
            for position in range(16):
                weight = _bf16(weights[head * stride + n * 16 + position])
                total += weight * _bf16(values[at + n * step + d * 16 + position])
        result[head * head_dim + d] = total
