"""A number's bits. The contract is in ../README.md."""

from llvmlite import ir
from numba.cuda.extending import intrinsic

from .words import float32, function, ptx, uint32

__all__ = ["anew", "as_bits", "as_float32", "bfloat16_pair", "float16_bits", "float16_value"]


_anew = ptx("mov.u32 $0, $1;", "=r,r", uint32, uint32)


@function
def anew(value):
    return _anew(uint32(value))


@intrinsic
def as_float32(typingctx, bits):
    return float32(uint32), lambda context, builder, sig, args: builder.bitcast(args[0], ir.FloatType())


@intrinsic
def as_bits(typingctx, value):
    return uint32(float32), lambda context, builder, sig, args: builder.bitcast(args[0], ir.IntType(32))


_bfloat16_pair = ptx("cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,f,f", uint32, float32, float32, pure=True)


@function
def bfloat16_pair(first, second):
    return _bfloat16_pair(float32(first), float32(second))


float16_value = ptx("{ .reg .b16 h, u; mov.b32 {h, u}, $1; cvt.f32.f16 $0, h; }", "=f,r", float32, uint32, pure=True)
float16_bits = ptx("{ .reg .b16 h; cvt.rn.f16.f32 h, $1; cvt.u32.u16 $0, h; }", "=r,f", uint32, float32, pure=True)
