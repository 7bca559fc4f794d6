"""Products of bf16 rows on the tensor cores. The contract is in ../README.md.

Source: PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type", "movmatrix".
"""

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from .bits import as_float32, bfloat16_pair
from .vectors import load_pair, load_vector
from .words import cuda, exp, float32, function, lane_index, local, ptx, uint32

__all__ = ["attend_granules", "multiply_rows"]

I32, F32 = ir.IntType(32), ir.FloatType()
FULL_WARP = 0xFFFFFFFF
CHUNK, TOGETHER = 64, 4  # columns of four rows that one mma takes; chunks whose loads are in flight together
ROW_WORDS, VECTOR_WORDS = 4 * TOGETHER, 2 * TOGETHER  # of each lane
TOTALS, VECTORS = 8, 4  # of each lane and vector; vectors that are multiplied together
MOST_TOTALS = TOTALS * VECTORS
MOST_OPERANDS = 64  # words of each lane: a granule of heads of 256 dimensions
LOWEST, LOW = -1e30, -1e29  # scores below every real one, and far from overflow


@intrinsic
def _mma(typingctx, a0, a1, a2, a3, b0, b1, c0, c1, c2, c3):
    """c += a b for 16 x 16 times 16 x 8."""
    result = types.UniTuple(float32, 4)

    def codegen(context, builder, sig, args):
        shape = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"
        text = f"{shape} {{$0,$1,$2,$3}}, {{$4,$5,$6,$7}}, {{$8,$9}}, {{$10,$11,$12,$13}};"
        kind = ir.FunctionType(ir.LiteralStructType([F32] * 4), [value.type for value in args])
        asm = ir.InlineAsm(kind, text, "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f", side_effect=False)
        value = builder.call(asm, args, attrs=("convergent",))  # it stays where all lanes come
        return context.make_tuple(builder, sig.return_type, [builder.extract_value(value, i) for i in range(4)])

    return result(*[uint32] * 6, *[float32] * 4), codegen


@function
def _low(word):
    return as_float32(uint32(word << uint32(16)))


@function
def _high(word):
    return as_float32(uint32(word & uint32(0xFFFF0000)))


_transpose = ptx("movmatrix.sync.aligned.m8n8.trans.b16 $0, $1;", "=r,r", uint32, uint32)


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
def attend_granules(
    queries, row, rows, counts, keys, values, at, step, first, stride, granules, head_dim, sums, totals
):
    """Flash attention (Dao, 2023) of up to eight queries (warp).

    Scores are keys times queries, 16 positions x 8, and the sums values times weights, 16 dimensions x 8: keys and
    values lie in the cache as operands. Lane (g, t) has queries 2t and 2t + 1 of both products: of the scores positions
    g and g + 8, of the sums dimensions 2g and 2g + 1. Between the two, weights change their lanes.
    """
    group, query = lane_index() >> 2, (lane_index() & 3) * 2
    own = min(uint32(query), uint32(rows - 1)), min(uint32(query + 1), uint32(rows - 1))
    count = counts[row + own[0]], counts[row + own[1]]
    best, total, kept = local(2, float32), local(2, float32), local(2, float32)
    for i in range(2):
        best[i], total[i] = float32(LOWEST), float32(0)
    n = uint32(first)
    while n < granules:
        place = at + n * step
        scores = local(4, float32)
        _score(queries, row, rows, keys, place, head_dim, scores)
        held = local(MOST_OPERANDS, uint32)
        _load_operands(values, place, head_dim, held)
        position = n * 16 + group
        for i in range(4):
            if position + 8 * (i >> 1) >= count[i & 1]:
                scores[i] = float32(LOWEST)
        for i in range(2):
            top = max(best[i], max(scores[i], scores[i + 2]))
            for distance in (4, 8, 16):
                top = max(top, cuda.shfl_xor_sync(FULL_WARP, top, distance))
            reference = max(top, float32(LOW))  # so that what is not seen weighs nothing
            scores[i], scores[i + 2] = exp(scores[i] - reference), exp(scores[i + 2] - reference)
            kept[i] = exp(best[i] - reference)
            best[i] = top
        early, late = bfloat16_pair(scores[0], scores[1]), bfloat16_pair(scores[2], scores[3])
        total[0] = total[0] * kept[0] + (_low(early) + _low(late))
        total[1] = total[1] * kept[1] + (_high(early) + _high(late))
        _add_values(held, _transpose(early), _transpose(late), kept, n == first, head_dim, sums, first * rows, rows)
        n = uint32(n + stride)
    for i in range(2):
        for distance in (4, 8, 16):
            total[i] += cuda.shfl_xor_sync(FULL_WARP, total[i], distance)
        if group == 0 and query + i < rows:
            to = 2 * (first * rows + query + i)
            totals[to], totals[to + 1] = best[i], total[i]


@function
def _load_operands(source, place, head_dim, held):
    """A granule's keys or values: four words, an operand, for each sixteen dimensions (warp)."""
    for chunk in range((head_dim + 15) // 16):
        i = 4 * chunk
        held[i], held[i + 1], held[i + 2], held[i + 3] = load_vector(source, place + chunk * 256 + lane_index() * 8)


@function
def _score(queries, row, rows, keys, place, head_dim, scores):
    """A granule's keys times the queries, a lane's own four (warp)."""
    group, column = lane_index() >> 2, (lane_index() & 3) * 4
    query = (row + min(group, rows - 1)) * head_dim + column
    held = local(MOST_OPERANDS, uint32)
    _load_operands(keys, place, head_dim, held)
    s, r = local(4, float32), local(4, float32)  # of even and odd chunks: an mma waits for the one that it adds to
    for i in range(4):
        s[i] = r[i] = float32(0)
    for chunk in range((head_dim + 15) // 16):
        i, v = 4 * chunk, (uint32(0), uint32(0))
        if chunk * 16 + column < head_dim:
            v = load_pair(queries, query + chunk * 16)
        if chunk & 1:
            r[0], r[1], r[2], r[3] = _mma(held[i], held[i + 1], held[i + 2], held[i + 3], *v, r[0], r[1], r[2], r[3])
        else:
            s[0], s[1], s[2], s[3] = _mma(held[i], held[i + 1], held[i + 2], held[i + 3], *v, s[0], s[1], s[2], s[3])
    for i in range(4):
        scores[i] = s[i] + r[i]


@function
def _add_values(held, early, late, kept, is_first, head_dim, sums, to, rows):
    """sums[to + q] = sums[to + q] * kept[q & 1] + values times weights, a lane's own queries and dimensions (warp)."""
    group, query = lane_index() >> 2, (lane_index() & 3) * 2
    mixed, nothing = local(MOST_OPERANDS, float32), float32(0)
    for chunk in range((head_dim + 15) // 16):
        i = 4 * chunk
        mixed[i], mixed[i + 1], mixed[i + 2], mixed[i + 3] = _mma(
            *(held[i], held[i + 1], held[i + 2], held[i + 3], early, late),
            *(nothing, nothing, nothing, nothing),
        )
    for half in range(2):
        if query + half < rows:
            at = (to + query + half) * head_dim + 2 * group
            if not is_first:
                for chunk in range((head_dim + 15) // 16):
                    if chunk * 16 + group * 2 < head_dim:
                        i = 4 * chunk + half
                        mixed[i] += sums[at + 16 * chunk] * kept[half]
                        mixed[i + 2] += sums[at + 16 * chunk + 1] * kept[half]
            for chunk in range((head_dim + 15) // 16):
                if chunk * 16 + group * 2 < head_dim:
                    i = 4 * chunk + half
                    sums[at + 16 * chunk], sums[at + 16 * chunk + 1] = mixed[i], mixed[i + 2]
