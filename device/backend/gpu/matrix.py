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
CHUNK, TOGETHER = 128, 4  # columns of both rows that two mma take; chunks whose loads are in flight together


@intrinsic
def _mma(typingctx, a0, a2, b0, b1, c0, c1):
    """c += a b for 16 x 16 times 16 x 8 of which only rows 0 to 7 of a, and of c, are used."""
    result = types.UniTuple(float32, 2)

    def codegen(context, builder, sig, args):
        a0, a2, b0, b1, c0, c1 = args
        zero, nothing = ir.Constant(I32, 0), ir.Constant(F32, 0)
        shape = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"
        text = f"{shape} {{$0,$1,$2,$3}}, {{$4,$5,$6,$7}}, {{$8,$9}}, {{$10,$11,$12,$13}};"
        operands = [a0, zero, a2, zero, b0, b1, c0, c1, nothing, nothing]
        kind = ir.FunctionType(ir.LiteralStructType([F32] * 4), [value.type for value in operands])
        asm = ir.InlineAsm(kind, text, "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f", side_effect=False)
        value = builder.call(asm, operands)
        return context.make_tuple(builder, sig.return_type, [builder.extract_value(value, i) for i in range(2)])

    return result(uint32, uint32, uint32, uint32, float32, float32), codegen


@function
def multiply_rows(rows, at, x, start, columns, low):
    """Two bf16 rows times a bf16 vector, or one of two bf16 terms (warp); every lane gets both sums.

    An mma multiplies eight rows: here they are four quarters of each of the two rows, and the vector's four quarters
    are the rows of the other operand, its low terms' four more, so that the wanted products stand where a quarter meets
    itself. The order of columns within an mma is free as long as both operands share it: lane (g, t) takes eight that
    lie side by side, 16 bytes.
    """
    lane = lane_index()
    group, column = lane >> 2, ((lane >> 2) & 3) * 32 + (lane & 3) * 8
    row = at + (group >> 2) * columns
    vector, present = start + (0 if group < 4 else low), group < 4 or low > 0
    c0, c1, d0, d1 = float32(0), float32(0), float32(0), float32(0)
    for first in range(0, columns, TOGETHER * CHUNK):
        w, v = local(16, uint32), local(16, uint32)  # 4 * TOGETHER: all loads are in flight before the first mma
        for j in range(TOGETHER):
            i = first + j * CHUNK + column
            a = b = (uint32(0), uint32(0), uint32(0), uint32(0))
            if i < columns:
                a = load_vector(rows, row + i)
                if present:
                    b = load_vector(x, vector + i)
            for k in range(4):
                w[4 * j + k] = a[k]
                v[4 * j + k] = b[k]
        for j in range(0, 4 * TOGETHER, 4):
            c0, c1 = _mma(v[j], v[j + 1], w[j], w[j + 1], c0, c1)
            d0, d1 = _mma(v[j + 2], v[j + 3], w[j + 2], w[j + 3], d0, d1)
    c0, c1 = c0 + d0, c1 + d1
    # Lane (g, t) holds quarter g % 4 of the vector times rows 2t and 2t + 1: quarters 2 (t % 2) and on of row t // 2.
    meets = (lane & 1) == (group & 3) >> 1
    total = (c1 if group & 1 else c0) if meets else float32(0)
    total += cuda.shfl_xor_sync(FULL_WARP, total, 1)
    total += cuda.shfl_xor_sync(FULL_WARP, total, 4)
    total += cuda.shfl_xor_sync(FULL_WARP, total, 8)
    total += cuda.shfl_xor_sync(FULL_WARP, total, 16)
    return cuda.shfl_sync(FULL_WARP, total, 0), cuda.shfl_sync(FULL_WARP, total, 2)


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
            c0, c1 = _mma(v[0], v[1], w[0], w[1], c0, c1)
            c0, c1 = _mma(v[2], v[3], w[2], w[3], c0, c1)
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
            c0, c1 = _mma(v[0], v[1], w[0], w[1], c0, c1)
        if first + group < heads:
            d = (first + group) * head_dim + dimension + 2 * (lane_index() & 3)
            result[d] = c0
            result[d + 1] = c1
