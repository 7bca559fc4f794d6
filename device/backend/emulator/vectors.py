"""Several words, or an element's bits, in one load or store, for the host's threads (see ../README.md)."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .arrays import element
from .context import I32, I64, function

__all__ = [
    "DEVICE",
    "SYSTEM",
    "load_bits",
    "load_packet",
    "load_pair",
    "load_vector",
    "store_bits",
    "store_half",
    "store_packet",
    "store_pair",
]

SYSTEM, DEVICE = range(2)  # scopes, which are one here


def _vector_load(words):
    """An ordinary load of `words` uint32 at once."""

    @intrinsic
    def load(typingctx, array, i):
        def codegen(context, builder, sig, args):
            place = element(context, builder, sig.args[0], *args, as_type=ir.VectorType(I32, words))
            vector = builder.load(place, align=4 * words)
            each = [builder.extract_element(vector, ir.Constant(I32, n)) for n in range(words)]
            return context.make_tuple(builder, sig.return_type, each)

        return types.UniTuple(types.uint32, words)(array, types.int64), codegen

    return load


load_vector, load_pair = _vector_load(4), _vector_load(2)


@intrinsic
def load_bits(typingctx, array, i):
    """An element of 2 or 4 bytes as it stands, zeros above."""
    kind = ir.IntType(array.dtype.bitwidth)

    def codegen(context, builder, sig, args):
        bits = builder.load(element(context, builder, sig.args[0], *args, as_type=kind))
        return bits if kind.width == 32 else builder.zext(bits, I32)

    return types.uint32(array, types.int64), codegen


@intrinsic
def store_bits(typingctx, array, i, bits):
    """The low 2 or 4 bytes of `bits`, as the element's size is."""
    kind = ir.IntType(array.dtype.bitwidth)

    def codegen(context, builder, sig, args):
        bits = args[2] if kind.width == 32 else builder.trunc(args[2], kind)
        builder.store(bits, element(context, builder, sig.args[0], *args[:2], as_type=kind))
        return context.get_dummy_value()

    return types.void(array, types.int64, types.uint32), codegen


@intrinsic
def _store_half(typingctx, array, i, a, b):
    """8 bytes that arrive whole, relaxed."""

    def codegen(context, builder, sig, args):
        low, high = (builder.zext(word, I64) for word in args[2:])
        both = builder.or_(low, builder.shl(high, ir.Constant(I64, 32)))
        builder.store_atomic(both, element(context, builder, sig.args[0], *args[:2], as_type=I64), "monotonic", 8)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.uint32, types.uint32), codegen


@function
def store_pair(array, i, a, b):
    """8 bytes, an ordinary store."""
    _store_half(array, i, a, b)


@intrinsic
def _load_half(typingctx, array, i):
    def codegen(context, builder, sig, args):
        both = builder.load_atomic(element(context, builder, sig.args[0], *args, as_type=I64), "monotonic", 8)
        words = [builder.trunc(both, I32), builder.trunc(builder.lshr(both, ir.Constant(I64, 32)), I32)]
        return context.make_tuple(builder, sig.return_type, words)

    return types.UniTuple(types.uint32, 2)(array, types.int64), codegen


@function
def store_half(array, i, a, b, scope=SYSTEM):
    """8 bytes that arrive whole, relaxed."""
    _store_half(array, i, a, b)


@function
def store_packet(array, i, a, b, c, d, scope=SYSTEM):
    """16 bytes, each 8-byte half whole, relaxed."""
    _store_half(array, i, a, b)
    _store_half(array, i + 2, c, d)


@function
def load_packet(array, i, scope=SYSTEM):
    """Four uint32 by 16 bytes, each 8-byte half whole, relaxed."""
    a, b = _load_half(array, i)
    c, d = _load_half(array, i + 2)
    return a, b, c, d
