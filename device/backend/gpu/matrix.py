"""Products of bf16 rows on the tensor cores. The contract is in ../README.md.

Source: PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type".
"""

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from .bits import as_bits
from .vectors import load_pair, load_vector, store_pair
from .words import cuda, float32, function, int64, lane_index, local, uint32

__all__ = ["add_products", "begin_products", "lane_places", "multiply_rows", "store_products"]

I32, F32 = ir.IntType(32), ir.FloatType()
FULL_WARP = 0xFFFFFFFF
CHUNK, TOGETHER = 64, 4  # columns of four rows that one mma takes; chunks whose loads are in flight together
ROW_WORDS, VECTOR_WORDS = 4 * TOGETHER, 2 * TOGETHER  # of each lane
TOTALS = 8  # of each lane: two sets in turn
WIDTH, HALF = 64, 32  # columns of what `add_products` takes, and of their halves
MOST_VECTOR_WORDS, ROWS_WORDS = 16, 4  # of each lane: 32 vectors, and eight rows


@intrinsic
def mma(typingctx, a0, a1, a2, a3, b0, b1, c0, c1, c2, c3):
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
def lane_places(columns, low):
    """Where lane (g, t) has its elements: of each chunk eight that lie side by side in row g / 2, and in the vector."""
    group, column = lane_index() >> 2, lane_index() & 3
    row = (group >> 1) * columns + ((group ^ (group >> 1)) & 1) * (CHUNK // 2) + column * 8
    vector = (group >> 2) * low + ((group >> 1) & 1) * (CHUNK // 2) + column * 8 + (group & 1) * 4
    return uint32(row), uint32(vector)


@function
def multiply_rows(rows, at, x, start, columns, low, places, sums, to):
    """Four bf16 rows times a bf16 vector, or one of two bf16 terms, into `sums` (warp).

    An mma multiplies 16 rows by 8 columns: here each of the four rows is four quarters of a chunk, and the other
    operand's columns are the vector's quarters, those of its low terms behind; the wanted products stand where a
    quarter meets itself. Which columns make a quarter is free as long as both operands agree: of a lane's eight, pairs
    0 and 2 belong to one quarter, pairs 1 and 3 to the next one, so that a load of 16 bytes is an operand as it stands,
    and of a vector where those pairs stand side by side one of 8 bytes is the other. Odd rows' halves are swapped.
    """
    lane = lane_index()
    row, vector = int64(at + places[0]), int64(start + places[1])
    totals = local(TOTALS, float32)
    for i in range(TOTALS):
        totals[i] = float32(0)
    left = uint32(columns) // uint32(CHUNK)
    while left >= 2 * TOGETHER:  # twice, so that loads of the second half do not wait for the first one's sums
        _multiply_chunks(rows, row, x, vector, TOGETHER, totals)
        row, vector = row + TOGETHER * CHUNK, vector + TOGETHER * CHUNK
        _multiply_chunks(rows, row, x, vector, TOGETHER, totals)
        row, vector = row + TOGETHER * CHUNK, vector + TOGETHER * CHUNK
        left = uint32(left - 2 * TOGETHER)
    if left & TOGETHER:
        _multiply_chunks(rows, row, x, vector, TOGETHER, totals)
        row, vector = row + TOGETHER * CHUNK, vector + TOGETHER * CHUNK
    if left & 2:
        _multiply_chunks(rows, row, x, vector, 2, totals)
        row, vector = row + 2 * CHUNK, vector + 2 * CHUNK
    if left & 1:
        _multiply_chunks(rows, row, x, vector, 1, totals)
    # Lane (g, t) holds rows g and g + 8 of the product, columns 2t and 2t + 1: quarters 2 (g % 2) and on of row g / 2,
    # times quarters 2 (t % 2) and on of the high terms (t < 2) or of the low ones. They meet in lanes 0, 2, 5, 7 of 8.
    total = (totals[0] + totals[4]) + (totals[3] + totals[7])
    if low == 0 and lane & 3 >= 2:
        total = float32(0)
    total += cuda.shfl_xor_sync(FULL_WARP, total, 2)
    total += cuda.shfl_xor_sync(FULL_WARP, total, 5)
    if lane & 7 == 0:
        sums[to + (lane >> 3)] = total


@function
def _multiply_chunks(rows, row, x, vector, chunks, totals):
    """`chunks` chunks, all loads under way before the first mma.

    They take turns with two sets of totals, for an mma waits for those that it adds to.
    """
    w, v = local(ROW_WORDS, uint32), local(VECTOR_WORDS, uint32)
    for j in range(chunks):
        w[4 * j], w[4 * j + 1], w[4 * j + 2], w[4 * j + 3] = load_vector(rows, row + j * CHUNK)
    for j in range(chunks):
        v[2 * j], v[2 * j + 1] = load_pair(x, vector + j * CHUNK)
    for j in range(chunks):
        i, k, t = 4 * j, 2 * j, 4 * (j & 1)
        totals[t], totals[t + 1], totals[t + 2], totals[t + 3] = mma(
            *(w[i], w[i + 1], w[i + 2], w[i + 3], v[k], v[k + 1]),
            *(totals[t], totals[t + 1], totals[t + 2], totals[t + 3]),
        )


@function
def begin_products(totals, rows, vectors):
    """(warp)"""
    for i in range(rows * vectors // 32):
        totals[i] = float32(0)


@function
def add_products(totals, tiles, at, x, start, rows, vectors):
    """The products of one tile of rows and one of vectors, WIDTH columns of each (warp).

    Sixteen vectors are an mma's first operand, as they stand, eight rows the second one. As in `multiply_rows` it is
    free which columns an mma has: lane (g, t) loads eight of a row that lie side by side, which serve two mmas. Rows g
    and g + 1 are read at once, from other banks, for one of them has its halves swapped, or of vectors its fours.
    """
    lane = lane_index()
    group, column = uint32(lane >> 2), uint32(lane & 3)
    swapped = uint32(group & 1)
    w, v = uint32(at + WIDTH * group + 8 * column), uint32(start + 2 * WIDTH * group + 16 * column)
    first, second = int64(v + 8 * swapped), int64(v + 8 * (swapped ^ uint32(1)))
    _multiply_half(totals, tiles, int64(w + HALF * swapped), x, first, second, rows, vectors)
    other = int64(w + HALF * (swapped ^ uint32(1)))
    _multiply_half(totals, tiles, other, x, first + WIDTH, second + WIDTH, rows, vectors)


@function
def _multiply_half(totals, tiles, w, x, first, second, rows, vectors):
    """Half of the columns: the vectors' operands stay in registers, the rows' pass by."""
    a, b = local(MOST_VECTOR_WORDS, uint32), local(ROWS_WORDS, uint32)
    for n in range(vectors // 16):
        i, ahead = 8 * n, 16 * WIDTH * n
        a[i], a[i + 1], a[i + 2], a[i + 3] = load_vector(x, first + ahead)
        a[i + 4], a[i + 5], a[i + 6], a[i + 7] = load_vector(x, second + ahead)
    for r in range(rows // 8):
        b[0], b[1], b[2], b[3] = load_vector(tiles, w + 8 * WIDTH * r)
        for k in range(2):
            for n in range(vectors // 16):
                i, j, t = 8 * n + 4 * k, 2 * k, 4 * (r * (vectors // 16) + n)
                totals[t], totals[t + 1], totals[t + 2], totals[t + 3] = mma(
                    *(a[i], a[i + 1], a[i + 2], a[i + 3], b[j], b[j + 1]),
                    *(totals[t], totals[t + 1], totals[t + 2], totals[t + 3]),
                )


@function
def store_products(totals, rows, vectors, sums, to, stride):
    """Lane (g, t) holds of vectors g and g + 8 of each sixteen the products of rows 2t and 2t + 1 of each eight."""
    lane = lane_index()
    place = uint32(to + (lane >> 2) * stride + 2 * (lane & 3))
    for r in range(rows // 8):
        for n in range(vectors // 16):
            t, there = 4 * (r * (vectors // 16) + n), uint32(place + 16 * n * stride + 8 * r)
            store_pair(sums, there, as_bits(totals[t]), as_bits(totals[t + 1]))
            store_pair(sums, uint32(there + 8 * stride), as_bits(totals[t + 2]), as_bits(totals[t + 3]))
