"""bfloat16 as bits: two values to a uint32, the lower half first. All functions are a thread's own."""

from .backend import as_bits, as_float32, function, uint32


@function
def low(word):
    """The first of two bf16 values, as float32."""
    return as_float32(uint32(word << uint32(16)))


@function
def high(word):
    """The second of two bf16 values, as float32."""
    return as_float32(uint32(word & uint32(0xFFFF0000)))


@function
def rounded(value):
    """The bits of float32 `value` rounded to bf16, nearest even, in the upper half of a uint32."""
    bits = as_bits(value)
    odd = uint32(uint32(bits >> uint32(16)) & uint32(1))
    return uint32(uint32(bits + uint32(0x7FFF) + odd) & uint32(0xFFFF0000))


@function
def pack(first, second):
    """Two float32 values as one word of bf16."""
    return uint32(uint32(rounded(first) >> uint32(16)) | rounded(second))


@function
def remainder(value):
    """What rounding float32 `value` to bf16 leaves: its low term, float32."""
    return value - as_float32(rounded(value))
