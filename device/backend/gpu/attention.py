"""Attention of eight queries over granules in shared memory, in one warp's registers. The contract is in ../README.md.

Source: PTX ISA, "movmatrix".
"""

from numba import cuda

from .bits import as_bits, as_float32, bfloat16_pair
from .matrix import FULL_WARP, mma
from .vectors import load_pair, load_vector, store_pair
from .words import exp, float32, function, lane_index, local, ptx, uint32

__all__ = ["attend_tile", "begin_attention", "end_attention"]

TILE = 2  # granules
SCORES, WORDS = 4 * TILE, 2 * TILE  # of each lane, of a tile
LOWEST, LOW = -1e30, -1e29  # scores below every real one, and far from overflow


@function
def _low(word):
    return as_float32(uint32(word << uint32(16)))


@function
def _high(word):
    return as_float32(uint32(word & uint32(0xFFFF0000)))


_transpose = ptx("movmatrix.sync.aligned.m8n8.trans.b16 $0, $1;", "=r,r", uint32, uint32, convergent=True)


@function
def begin_attention(held, queries, at, rows, head_dim):
    """Of a lane's two queries its sums as `mma` has them, their highest scores and sums of weights; then operands."""
    chunks, column = (head_dim + 15) // 16, (lane_index() & 3) * 4
    query = at + min(lane_index() >> 2, rows - 1) * head_dim + column
    for i in range(4 * chunks):
        held[i] = float32(0)
    for i in range(2):
        held[4 * chunks + i], held[4 * chunks + 2 + i] = float32(LOWEST), float32(0)
    for chunk in range(chunks):
        i, pair = 4 * chunks + 4 + 2 * chunk, (uint32(0), uint32(0))
        if chunk * 16 + column < head_dim:
            pair = load_pair(queries, query + chunk * 16)
        held[i], held[i + 1] = as_float32(pair[0]), as_float32(pair[1])


@function
def attend_tile(held, counts, row, rows, keys, k, values, v, position, head_dim):
    """Flash attention (Dao, 2023) of up to eight queries (warp).

    Scores are keys times queries, 16 positions x 8, and the sums values times weights, 16 dimensions x 8: keys and
    values lie in the cache as operands. Lane (g, t) has queries 2t and 2t + 1 of both products: of the scores positions
    g and g + 8, of the sums dimensions 2g and 2g + 1. Between the two, weights change their lanes.
    """
    group, query, chunks = lane_index() >> 2, (lane_index() & 3) * 2, (head_dim + 15) // 16
    count = counts[row + min(query, rows - 1)], counts[row + min(query + 1, rows - 1)]
    scores, kept, words = local(SCORES, float32), local(2, float32), local(WORDS, uint32)
    _score_tile(held, keys, k, head_dim, scores)
    first = uint32(position + group)
    for i in range(SCORES):
        if uint32(first + 8 * (i >> 1)) >= count[i & 1]:
            scores[i] = float32(LOWEST)
    for i in range(2):
        best, total = 4 * chunks + i, 4 * chunks + 2 + i
        top = held[best]
        for n in range(WORDS):
            top = max(top, scores[2 * n + i])
        for distance in (4, 8, 16):
            top = max(top, cuda.shfl_xor_sync(FULL_WARP, top, distance))
        reference = max(top, float32(LOW))  # so that what is not seen weighs nothing
        for n in range(WORDS):
            scores[2 * n + i] = exp(scores[2 * n + i] - reference)
        kept[i] = exp(held[best] - reference)
        held[best] = top
        held[total] *= kept[i]
    for n in range(WORDS):
        word = bfloat16_pair(scores[2 * n], scores[2 * n + 1])
        held[4 * chunks + 2] += _low(word)
        held[4 * chunks + 3] += _high(word)
        words[n] = _transpose(word)
    for chunk in range(chunks):
        i = 4 * chunk
        a, b, c, d = held[i] * kept[0], held[i + 1] * kept[1], held[i + 2] * kept[0], held[i + 3] * kept[1]
        for n in range(TILE):
            operand = load_vector(values, v + (n * chunks + chunk) * 256 + lane_index() * 8)
            a, b, c, d = mma(*operand, words[2 * n], words[2 * n + 1], a, b, c, d)
        held[i], held[i + 1], held[i + 2], held[i + 3] = a, b, c, d


@function
def _score_tile(held, keys, k, head_dim, scores):
    """A tile's keys times the queries: of each granule a lane's own four (warp)."""
    chunks = (head_dim + 15) // 16
    for i in range(SCORES):
        scores[i] = float32(0)
    for chunk in range(chunks):
        pair = as_bits(held[4 * chunks + 4 + 2 * chunk]), as_bits(held[4 * chunks + 5 + 2 * chunk])
        for n in range(TILE):
            i = 4 * n
            operand = load_vector(keys, k + (n * chunks + chunk) * 256 + lane_index() * 8)
            scores[i], scores[i + 1], scores[i + 2], scores[i + 3] = mma(
                *operand, *pair, scores[i], scores[i + 1], scores[i + 2], scores[i + 3]
            )


@function
def end_attention(held, rows, head_dim, target, to, stride):
    group, query, chunks = lane_index() >> 2, (lane_index() & 3) * 2, (head_dim + 15) // 16
    for i in range(2):
        total = held[4 * chunks + 2 + i]
        for distance in (4, 8, 16):
            total += cuda.shfl_xor_sync(FULL_WARP, total, distance)
        if query + i < rows:
            at = to + (query + i) * stride
            for chunk in range(chunks):
                d = 16 * chunk + 2 * group
                if d < head_dim:
                    store_pair(target, at + d, as_bits(held[4 * chunk + i]), as_bits(held[4 * chunk + 2 + i]))
            if group == 0:
                store_pair(target, at + head_dim, as_bits(held[4 * chunks + i]), as_bits(total))
