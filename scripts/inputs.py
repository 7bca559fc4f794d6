"""Elements on the host: random inputs as they stand in memory, and the sums that a collective must give, bit for bit.

A sum is that of `shmemtp.device`: in float32, in the order of the PEs, rounded once. Other libraries add in other
orders: their sums equal these where none is rounded, as with the small integers of `whole` inputs.
"""

import numpy as np

from shmemtp.device import BFLOAT16, FLOAT16, FLOAT32, INT32

KINDS = {"float": FLOAT32, "bfloat16": BFLOAT16, "half": FLOAT16, "int32": INT32}
NAMES = {"float": "float32", "bfloat16": "bfloat16", "half": "float16", "int32": "int32"}  # shmemtp's own
STORED = {"float": np.float32, "bfloat16": np.uint16, "half": np.uint16, "int32": np.int32}


def random(type, count, seed, whole=False):
    """`count` elements of `type` as they are stored; another `seed` (a list of ints) gives others."""
    generator = np.random.default_rng(seed)
    if type == "int32":
        return generator.integers(-(2**31), 2**31, count, np.int32)
    if whole:
        return stored(type, generator.integers(-8, 9, count).astype(np.float32))
    return stored(type, generator.standard_normal(count, np.float32))


def poison(type, count):
    """What no result is: all bits set, NaN in every float."""
    return np.full(count * np.dtype(STORED[type]).itemsize, 0xFF, np.uint8).view(STORED[type])


def stored(type, numbers):
    """float32 (int32 as it is) rounded to `type`, nearest even, as it is stored."""
    if type == "half":
        return numbers.astype(np.float16).view(np.uint16)
    if type == "bfloat16":
        bits = numbers.view(np.uint32)
        return ((bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
    return numbers


def values(type, elements):
    """The reverse of `stored`."""
    if type == "half":
        return elements.view(np.float16).astype(np.float32)
    if type == "bfloat16":
        return (elements.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return elements


def unrounded_sum(type, inputs):
    """The PEs' inputs, added in their order: float32, or int32."""
    total = np.zeros(len(inputs[0]), np.int32 if type == "int32" else np.float32)
    for elements in inputs:
        total += values(type, elements)
    return total


def summed(type, inputs):
    return stored(type, unrounded_sum(type, inputs))


def wrong(found, expected):
    """How many elements differ in any bit."""
    word = {2: np.uint16, 4: np.uint32}[expected.itemsize]
    return int(np.count_nonzero(found.view(word) != expected.view(word)))
