"""NumPy's reference of the collectives: element kinds as bits, and sums as every PE must have them, bit for bit."""

import numpy as np

KINDS = ("float32", "bfloat16", "float16", "int32")
CARRIERS = {"float32": np.float32, "bfloat16": np.uint16, "float16": np.uint16, "int32": np.int32}  # what kernels take


def narrow(kind: str, values: np.ndarray) -> np.ndarray:
    """float32 (int32 for int32) values as the kind's carrier, rounded to nearest even."""
    if kind == "bfloat16":
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
        return ((bits + 0x7FFF + ((bits >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)).astype(np.uint16)
    if kind == "float16":
        return values.astype(np.float16).view(np.uint16)
    return values.astype(CARRIERS[kind])


def widen(kind: str, carried: np.ndarray) -> np.ndarray:
    """The reverse of `narrow`."""
    if kind == "bfloat16":
        return (carried.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if kind == "float16":
        return carried.view(np.float16).astype(np.float32)
    return carried


def random(kind: str, count: int, seed: int) -> np.ndarray:
    """`count` elements of the kind, as carried: of very different sizes, so that the order of a sum shows."""
    generator = np.random.default_rng(seed)
    if kind == "int32":
        return generator.integers(-(1 << 31), 1 << 31, count).astype(np.int32)
    return narrow(kind, (generator.standard_normal(count) * 2.0 ** generator.integers(-6, 6, count)).astype(np.float32))


def sum_of(kind: str, parts) -> np.ndarray:
    """The sum of equally long parts in their order, in float32 (int32 wraps around), rounded once."""
    total = np.zeros(len(parts[0]), np.int32 if kind == "int32" else np.float32)
    for part in parts:
        total = total + widen(kind, part)
    return narrow(kind, total)
