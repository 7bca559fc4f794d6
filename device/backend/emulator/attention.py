"""Attention over granules in shared memory, a query to a lane. The contract is in ../README.md."""

from .bits import as_float32, bfloat16_pair
from .words import exp, float32, function, lane_index, local, uint32, warp_size

__all__ = ["attend_tile", "begin_attention", "end_attention"]

LOWEST = -1e30  # a score below every real one, and far from overflow
GRANULE, TILE = 16, 2  # positions of a granule; granules of a tile


@function
def begin_attention(held, queries, at, rows, head_dim):
    """Of each of a lane's queries its sums, its highest score, the sum of its weights, and the query."""
    for r in range(lane_index(), rows, warp_size()):
        to = r // warp_size() * (2 * head_dim + 2)
        for d in range(head_dim):
            held[to + d] = float32(0)
            held[to + head_dim + 2 + d] = _bf16(queries[at + r * head_dim + d])
        held[to + head_dim], held[to + head_dim + 1] = float32(LOWEST), float32(0)


@function
def attend_tile(held, counts, row, rows, keys, k, values, v, position, head_dim):
    """Flash attention (Dao et al., 2023), one granule after the other."""
    weights, granule = local(GRANULE, float32), (head_dim + 15) // 16 * 256
    for r in range(lane_index(), rows, warp_size()):
        to = r // warp_size() * (2 * head_dim + 2)
        for n in range(TILE):
            seen = counts[row + r] - min(position + n * GRANULE, counts[row + r])
            held[to + head_dim], held[to + head_dim + 1] = _attend(
                *(held, to + head_dim + 2, seen, keys, k + n * granule, values, v + n * granule, head_dim),
                *(weights, held, to, held[to + head_dim], held[to + head_dim + 1]),
            )


@function
def end_attention(held, rows, head_dim, target, to, stride):
    for r in range(lane_index(), rows, warp_size()):
        at = r // warp_size() * (2 * head_dim + 2)
        for d in range(head_dim + 2):
            target[to + r * stride + d] = held[at + d]


@function
def _attend(query, at, seen, keys, k, values, v, head_dim, weights, sums, to, best, total):
    """A query sees the first `seen` positions of a granule, or all; returns `best` and `total` with them."""
    top = best
    for p in range(GRANULE):
        weights[p] = float32(LOWEST)
        if p < seen:
            weights[p] = _score(query, at, keys, k, p, head_dim)
        top = max(top, weights[p])
    kept = exp(best - top)
    total *= kept
    for p in range(GRANULE):
        weights[p] = _rounded(exp(weights[p] - top)) if weights[p] > float32(LOWEST) else float32(0)
        total += weights[p]
    for d in range(head_dim):
        sums[to + d] = sums[to + d] * kept + _weigh(weights, values, v, d)
    return top, total


@function
def _bf16(bits):
    return as_float32(uint32(uint32(bits) << uint32(16)))


@function
def _score(query, start, keys, place, p, head_dim):
    """`query[start:]` times the granule's key number `p`; of an operand's eight words four are another key's."""
    total = float32(0)
    for d in range(head_dim):
        chunk, quad, half = d // 16 * 256, d // 4 % 4 * 8, d // 2 % 2 * 4
        at = place + chunk + p % 8 * 32 + quad + half + p // 8 * 2 + d % 2
        total += query[start + d] * _bf16(keys[at])
    return total


@function
def _weigh(weights, values, place, d):
    """Dimension `d` of the granule's values times the weights."""
    total, at = float32(0), place + d // 16 * 256 + d // 2 % 8 * 32 + d % 2 * 2
    for p in range(GRANULE):
        total += weights[p] * _bf16(values[at + p // 2 % 4 * 8 + p // 8 * 4 + p % 2])
    return total


@function
def _rounded(value):
    """To bfloat16."""
    return as_float32(uint32(bfloat16_pair(value, float32(0)) << uint32(16)))
