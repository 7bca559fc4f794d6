"""Products of bf16 rows on the tensor cores. The contract is in ../README.md.

Source: PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type".
"""

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from .vectors import load_pair, load_vector
from .words import cuda, float32, function, lane_index, local, uint32

__all__ = ["multiply_rows", "score_keys", "weigh_values"]

I32, F32 = ir.IntType(32), ir.FloatType()
FULL_WARP = 0xFFFFFFFF
CHUNK, TOGETHER = 64, 4  # columns of four rows that one mma takes; chunks whose loads are in flight together
ROW_WORDS, VECTOR_WORDS = 4 * TOGETHER, 2 * TOGETHER  # of each lane
TOTALS, VECTORS = 8, 4  # of each lane and vector; vectors that are multiplied together
MOST_TOTALS = TOTALS * VECTORS


@intrinsic
def _mma(typingctx, a0, a1, a2, a3, b0, b1, c0, c1, c2, c3):
    """c += a b for 16 x 16 times 16 x 8."""
    result = types.UniTuple(float32, 4)

    def codegen(context, builder, sig, args):
        shape = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"
        text = f"{shape} {{$0,$1,$2,$3}}, {{$4,$5,$6,$7}}, {{$8,$9}}, {{$10,$11,$12,$13}};"
        kind = ir.FunctionType(ir.LiteralStructType([F32] * 4), [value.type for value in args])
        asm = ir.InlineAsm(kind, text, "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f", side_effect=False)
        value = builder.call(asm, args)
        return context.make_tuple(builder, sig.return_type, [builder.extract_value(value, i) for i in range(4)])

    return result(*[uint32] * 6, *[float32] * 4), codegen


@function
def _mma_half(a0, a2, b0, b1, c0, c1):
    """`_mma` of which only rows 0 to 7 of a, and of c, are used."""
    nothing = float32(0)
    c0, c1, _, _ = _mma(a0, uint32(0), a2, uint32(0), b0, b1, c0, c1, nothing, nothing)
    return c0, c1


@function
def multiply_rows(rows, at, x, start, stride, count, columns, low, sums, to):
    """Four bf16 rows times `count` bf16 vectors, or vectors of two bf16 terms, into `sums` (warp).

    An mma multiplies 16 rows by 8 columns: here each of the four rows is four quarters of a chunk, and the other
    operand's columns are one vector's quarters, those of its low terms behind; the wanted products stand where a
    quarter meets itself. Which columns make a quarter is free as long as both operands agree: lane (g, t) has eight
    that lie side by side in row g / 2, of which the first four belong to one quarter, the others to the next one, so
    that one load of 16 bytes is an operand as it stands, and one of 8 bytes is the other.
    """
    lane = lane_index()
    group, column = lane >> 2, lane & 3
    row = uint32(at + (group >> 1) * columns + (group & 1) * (CHUNK // 2) + column * 8)
    term = start if group < 4 else start + low
    vector = uint32(term + ((group >> 1) & 1) * (CHUNK // 2) + column * 8 + (group & 1) * 4)
    _multiply_vectors(rows, row, x, vector, stride, 0, min(count, VECTORS), count, columns, low, sums, to)
    if count > VECTORS:
        _multiply_vectors(rows, row, x, vector, stride, VECTORS, count - VECTORS, count, columns, low, sums, to)


@function
def _multiply_vectors(rows, row, x, vector, stride, first, some, count, columns, low, sums, to):
    """By `some` of the `count` vectors, from number `first` on: as many as registers hold the totals of."""
    vector = uint32(vector + first * stride)
    totals = local(MOST_TOTALS, float32)
    for i in range(TOTALS * some):
        totals[i] = float32(0)
    left = uint32(columns) // uint32(CHUNK)
    while left >= 2 * TOGETHER:  # twice, so that loads of the second half do not wait for the first one's sums
        _multiply_chunks(rows, row, x, vector, stride, some, TOGETHER, totals)
        row, vector = uint32(row + TOGETHER * CHUNK), uint32(vector + TOGETHER * CHUNK)
        _multiply_chunks(rows, row, x, vector, stride, some, TOGETHER, totals)
        row, vector = uint32(row + TOGETHER * CHUNK), uint32(vector + TOGETHER * CHUNK)
        left = uint32(left - 2 * TOGETHER)
    if left & TOGETHER:
        _multiply_chunks(rows, row, x, vector, stride, some, TOGETHER, totals)
        row, vector = uint32(row + TOGETHER * CHUNK), uint32(vector + TOGETHER * CHUNK)
    if left & 2:
        _multiply_chunks(rows, row, x, vector, stride, some, 2, totals)
        row, vector = uint32(row + 2 * CHUNK), uint32(vector + 2 * CHUNK)
    if left & 1:
        _multiply_chunks(rows, row, x, vector, stride, some, 1, totals)
    # Lane (g, t) holds rows g and g + 8 of the product, columns 2t and 2t + 1: quarters 2 (g % 2) and on of row g / 2,
    # times quarters 2 (t % 2) and on of the high terms (t < 2) or of the low ones. They meet in lanes 0, 2, 5, 7 of 8.
    lane = lane_index()
    for n in range(some):
        i = TOTALS * n
        total = (totals[i] + totals[i + 4]) + (totals[i + 3] + totals[i + 7])
        if low == 0 and lane & 3 >= 2:
            total = float32(0)
        total += cuda.shfl_xor_sync(FULL_WARP, total, 2)
        total += cuda.shfl_xor_sync(FULL_WARP, total, 5)
        if lane & 7 == 0:
            sums[(to + (lane >> 3)) * count + first + n] = total


@function
def _multiply_chunks(rows, row, x, vector, stride, some, chunks, totals):
    """`chunks` chunks by each vector, all loads under way before the first mma.

    A vector's mmas take turns with two sets of totals, for an mma waits for those that it adds to.
    """
    w, v = local(ROW_WORDS, uint32), local(VECTOR_WORDS, uint32)
    for j in range(chunks):
        w[4 * j], w[4 * j + 1], w[4 * j + 2], w[4 * j + 3] = load_vector(rows, row + j * CHUNK)
    for n in range(some):
        for j in range(chunks):
            v[2 * j], v[2 * j + 1] = load_pair(x, uint32(vector + n * stride + j * CHUNK))
        for j in range(chunks):
            i, k, t = 4 * j, 2 * j, TOTALS * n + 4 * (j & 1)
            totals[t], totals[t + 1], totals[t + 2], totals[t + 3] = _mma(
                *(w[i], w[i + 2], w[i + 1], w[i + 3], v[k], v[k + 1]),
                *(totals[t], totals[t + 1], totals[t + 2], totals[t + 3]),
            )


@function
def score_keys(queries, heads, keys, at, head_dim, scores, to, stride):
    group, column = lane_index() >> 2, (lane_index() & 3) * 8
    zero = uint32(0)
    for first in range(0, heads, 8):
        row = min(first + group, heads - 1) * head_dim
        c0, c1 = float32(0), float32(0)
        for chunk in range((head_dim + 31) // 32):
            i = chunk * 32 + column
            w, v = (zero, zero, zero, zero), (zero, zero, zero, zero)
            if i < head_dim:
                w, v = load_vector(keys, at + group * head_dim + i), load_vector(queries, row + i)
            c0, c1 = _mma_half(v[0], v[1], w[0], w[1], c0, c1)
            c0, c1 = _mma_half(v[2], v[3], w[2], w[3], c0, c1)
        if first + group < heads:
            n = to + (first + group) * stride + 2 * (lane_index() & 3)
            scores[n] = c0
            scores[n + 1] = c1


@function
def weigh_values(weights, heads, stride, values, at, step, granules, head_dim, dimension, result):
    group, position = lane_index() >> 2, (lane_index() & 3) * 4
    for first in range(0, heads, 8):
        row = min(first + group, heads - 1) * stride
        c0, c1 = float32(0), float32(0)
        for n in range(granules):
            w = load_pair(values, at + n * step + (dimension + group) * 16 + position)
            v = load_pair(weights, row + n * 16 + position)
            c0, c1 = _mma_half(v[0], v[1], w[0], w[1], c0, c1)
        if first + group < heads:
            d = (first + group) * head_dim + dimension + 2 * (lane_index() & 3)
            result[d] = c0
            result[d + 1] = c1
