"""A number's bits, for the host's threads. The contract is in ../README.md."""

from llvmlite import ir
from numba.extending import intrinsic
from numba.types import float32, uint32

from .context import I32, function

__all__ = ["anew", "as_bits", "as_float32", "bfloat16_pair", "float16_bits", "float16_value"]


@function
def anew(value):
    return uint32(value)


@intrinsic
def as_float32(typingctx, bits):
    return float32(uint32), lambda context, builder, sig, args: builder.bitcast(args[0], ir.FloatType())


@intrinsic
def as_bits(typingctx, value):
    return uint32(float32), lambda context, builder, sig, args: builder.bitcast(args[0], I32)


@function
def _bfloat16_bits(value):
    """float32 `value` rounded to bf16, nearest even, in the upper half of a uint32."""
    bits = as_bits(value)
    odd = uint32(uint32(bits >> uint32(16)) & uint32(1))
    return uint32(uint32(bits + uint32(0x7FFF) + odd) & uint32(0xFFFF0000))


@function
def bfloat16_pair(first, second):
    """Two float32 values as bf16, the first in the low half."""
    return uint32(uint32(_bfloat16_bits(first) >> uint32(16)) | _bfloat16_bits(second))


@function
def float16_value(bits):
    """The float16 in the low half of `bits`, exactly."""
    sign, magnitude = uint32(bits & uint32(0x8000)), uint32(bits & uint32(0x7FFF))
    if magnitude >= uint32(0x7C00):  # infinity, NaN
        fraction = (magnitude & uint32(0x3FF)) << uint32(13)
        return as_float32(uint32((sign << uint32(16)) | uint32(0x7F800000) | fraction))
    value = as_float32(uint32(magnitude << uint32(13))) * as_float32(uint32(0x77800000))  # 2^112
    return -value if sign != uint32(0) else value


@function
def float16_bits(value):
    """float32 `value` as float16, to nearest even, in the low half of a uint32."""
    bits = as_bits(value)
    sign, magnitude = uint32((bits >> uint32(16)) & uint32(0x8000)), uint32(bits & uint32(0x7FFFFFFF))
    if magnitude > uint32(0x7F800000):
        return uint32(sign | uint32(0x7FFF))
    if magnitude >= uint32(0x47800000):  # 65536 and above
        return uint32(sign | uint32(0x7C00))
    if magnitude < uint32(0x38800000):  # below 2^-14: subnormal; adding 0.5 leaves its bits rounded at the bottom
        return uint32(sign | (as_bits(as_float32(magnitude) + float32(0.5)) - uint32(0x3F000000)))
    odd = uint32((magnitude >> uint32(13)) & uint32(1))
    return uint32(sign | ((magnitude - uint32(0x38000000) + uint32(0xFFF) + odd) >> uint32(13)))
