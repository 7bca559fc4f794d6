"""The elements of a collective: their kinds, how a packet carries them, how they are added.

A packet has two data words: two elements of 4 bytes or four of 2. Sums are float32, rounded once at the end; those of
INT32 wrap around. All functions are a thread's own.
"""

from .backend import (
    as_bits,
    as_float32,
    float16_bits,
    float16_value,
    float32,
    function,
    load_bits,
    load_pair,
    local,
    store_bits,
    store_pair,
    uint32,
)
from .bfloat16 import high, low, pack

FLOAT32, BFLOAT16, FLOAT16, INT32 = range(4)
KINDS = {"float32": FLOAT32, "bfloat16": BFLOAT16, "float16": FLOAT16, "int32": INT32}
MOST_KINDS = len(KINDS)


@function
def elements_of_packet(kind):
    return 4 if kind == BFLOAT16 or kind == FLOAT16 else 2


@function
def load_elements(kind, array, i, count):
    """A packet's two data words: the elements from `i` on, of which `count` are there; zeros for the others."""
    each = elements_of_packet(kind)
    if count >= each and i & (each - 1) == 0:
        return load_pair(array, i)
    first = second = uint32(0)
    if each == 2:
        if count > 0:
            first = load_bits(array, i)
        if count > 1:
            second = load_bits(array, i + 1)
        return first, second
    if count > 0:
        first = load_bits(array, i)
    if count > 1:
        first = uint32(first | load_bits(array, i + 1) << uint32(16))
    if count > 2:
        second = load_bits(array, i + 2)
    if count > 3:
        second = uint32(second | load_bits(array, i + 3) << uint32(16))
    return first, second


@function
def store_elements(kind, array, i, count, first, second):
    """The reverse of `load_elements`."""
    each = elements_of_packet(kind)
    if count >= each and i & (each - 1) == 0:
        store_pair(array, i, first, second)
    elif each == 2:
        if count > 0:
            store_bits(array, i, first)
        if count > 1:
            store_bits(array, i + 1, second)
    else:
        if count > 0:
            store_bits(array, i, first)
        if count > 1:
            store_bits(array, i + 1, uint32(first >> uint32(16)))
        if count > 2:
            store_bits(array, i + 2, second)
        if count > 3:
            store_bits(array, i + 3, uint32(second >> uint32(16)))


@function
def add_words(kind, first, second, sums):
    """Adds a packet's data to `sums`: uint32 [4], the bits of float32 sums, or of integers for INT32."""
    if kind == INT32:
        sums[0] = uint32(sums[0] + first)
        sums[1] = uint32(sums[1] + second)
    elif kind == FLOAT32:
        sums[0] = as_bits(as_float32(sums[0]) + as_float32(first))
        sums[1] = as_bits(as_float32(sums[1]) + as_float32(second))
    elif kind == BFLOAT16:
        _add_four(sums, low(first), high(first), low(second), high(second))
    else:
        a, b = float16_value(first), float16_value(uint32(first >> uint32(16)))
        _add_four(sums, a, b, float16_value(second), float16_value(uint32(second >> uint32(16))))


@function
def _add_four(sums, a, b, c, d):
    sums[0] = as_bits(as_float32(sums[0]) + a)
    sums[1] = as_bits(as_float32(sums[1]) + b)
    sums[2] = as_bits(as_float32(sums[2]) + c)
    sums[3] = as_bits(as_float32(sums[3]) + d)


@function
def rounded_sums(kind, sums):
    """The data words that `sums` make, rounded to the kind."""
    if kind == INT32 or kind == FLOAT32:
        return sums[0], sums[1]
    return words_of(kind, as_float32(sums[0]), as_float32(sums[1]), as_float32(sums[2]), as_float32(sums[3]))


@function
def add_data(kind, data, pes, sums):
    """`sums` (see `add_words`) of a packet's data from every PE, in their order. data: uint32 [2 * pes]."""
    for n in range(4):
        sums[n] = uint32(0)
    for p in range(pes):
        add_words(kind, data[2 * p], data[2 * p + 1], sums)


@function
def sum_of_data(kind, data, pes):
    """The data words of that sum, rounded: the same bits on each PE."""
    sums = local(4, uint32)
    add_data(kind, data, pes, sums)
    return rounded_sums(kind, sums)


# --- a packet's elements as float32; not for INT32 ---


@function
def values_of(kind, first, second):
    """The elements of a packet's two data words: four, zeros behind the last."""
    if kind == FLOAT32:
        return as_float32(first), as_float32(second), float32(0), float32(0)
    if kind == BFLOAT16:
        return low(first), high(first), low(second), high(second)
    a, b = float16_value(first), float16_value(uint32(first >> uint32(16)))
    return a, b, float16_value(second), float16_value(uint32(second >> uint32(16)))


@function
def words_of(kind, a, b, c, d):
    """The reverse of `values_of`, rounded to the kind."""
    if kind == FLOAT32:
        return as_bits(a), as_bits(b)
    if kind == BFLOAT16:
        return pack(a, b), pack(c, d)
    first = uint32(float16_bits(a) | float16_bits(b) << uint32(16))
    return first, uint32(float16_bits(c) | float16_bits(d) << uint32(16))
