"""bfloat16 as bits: two values to a uint32, the lower half first. All functions are a thread's own."""

from .backend import as_float32, bfloat16_pair, float32, function, uint16, uint32


@function
def low(word):
    """The first of two bf16 values, as float32."""
    return as_float32(uint32(word << uint32(16)))


@function
def high(word):
    """The second of two bf16 values, as float32."""
    return as_float32(uint32(word & uint32(0xFFFF0000)))


@function
def pack(first, second):
    """Two float32 values as one word of bf16, rounded to nearest even."""
    return bfloat16_pair(first, second)


@function
def bf16_bits(value):
    """A float32 value as bf16, rounded to nearest even."""
    return uint16(pack(value, float32(0)))


@function
def pack_rest(word, first, second):
    """What `word`, the values' `pack`, leaves of them: their low terms, as one word of bf16."""
    return bfloat16_pair(first - low(word), second - high(word))
