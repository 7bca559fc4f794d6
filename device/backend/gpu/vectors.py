"""Several words, or an element's bits, in one load or store. The contract is in ../README.md."""

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from .memory import I32, I64, address, element
from .words import function, int64, ptx, uint32, uint64

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

SYSTEM, DEVICE = range(2)  # scopes
PAIR = ir.VectorType(I32, 2)


def _vector_load(words):
    """An ordinary load of `words` uint32 at once."""

    @intrinsic
    def load(typingctx, array, i):
        def codegen(context, builder, sig, args):
            pointer = element(context, builder, sig.args[0], *args)
            vector = builder.load(builder.bitcast(pointer, ir.VectorType(I32, words).as_pointer()), align=4 * words)
            lanes = [builder.extract_element(vector, I32(lane)) for lane in range(words)]
            return context.make_tuple(builder, sig.return_type, lanes)

        return types.UniTuple(types.uint32, words)(array, types.int64), codegen

    return load


load_vector, load_pair = _vector_load(4), _vector_load(2)


@intrinsic
def load_word(typingctx, array, i):
    """An ordinary load of a uint32; for the backend's own use."""

    def codegen(context, builder, sig, args):
        return builder.load(builder.bitcast(element(context, builder, sig.args[0], *args), I32.as_pointer()), align=4)

    return types.uint32(array, types.int64), codegen


@intrinsic
def store_pair(typingctx, array, i, a, b):
    def codegen(context, builder, sig, args):
        pointer = element(context, builder, sig.args[0], *args[:2])
        pair = ir.Constant(PAIR, ir.Undefined)
        for lane in range(2):
            pair = builder.insert_element(pair, args[2 + lane], I32(lane))
        builder.store(pair, builder.bitcast(pointer, PAIR.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.uint32, types.uint32), codegen


@intrinsic
def load_bits(typingctx, array, i):
    """An element of 2 or 4 bytes as it stands, zeros above."""
    kind = ir.IntType(array.dtype.bitwidth)

    def codegen(context, builder, sig, args):
        pointer = element(context, builder, sig.args[0], *args)
        bits = builder.load(builder.bitcast(pointer, kind.as_pointer()))
        return bits if kind.width == 32 else builder.zext(bits, I32)

    return types.uint32(array, types.int64), codegen


@intrinsic
def store_bits(typingctx, array, i, bits):
    """The low 2 or 4 bytes of `bits`, as the element's size is."""
    kind = ir.IntType(array.dtype.bitwidth)

    def codegen(context, builder, sig, args):
        pointer = element(context, builder, sig.args[0], *args[:2])
        bits = args[2] if kind.width == 32 else builder.trunc(args[2], kind)
        builder.store(bits, builder.bitcast(pointer, kind.as_pointer()))
        return context.get_dummy_value()

    return types.void(array, types.int64, types.uint32), codegen


def _relaxed_load(words, scope):
    """A relaxed load of `words` uint32 at once, by address."""
    registers = ",".join(f"${n}" for n in range(words))
    text = f"ld.relaxed.{scope}.global.v{words}.u32 {{{registers}}}, [${words}];"
    constraints = "=r," * words + "l,~{memory}"

    @intrinsic
    def load(typingctx, at):
        def codegen(context, builder, sig, args):
            kind = ir.FunctionType(ir.LiteralStructType([I32] * words), [I64])
            value = builder.call(ir.InlineAsm(kind, text, constraints, side_effect=True), args)
            return context.make_tuple(builder, sig.return_type, [builder.extract_value(value, n) for n in range(words)])

        return types.UniTuple(types.uint32, words)(types.uint64), codegen

    return load


def _relaxed_store(words, scope):
    """A relaxed store of `words` uint32 at once, by address."""
    registers = ",".join(f"${n + 1}" for n in range(words))
    text = f"st.relaxed.{scope}.global.v{words}.u32 [$0], {{{registers}}};"
    return ptx(text, "l," + "r," * words + "~{memory}", types.void, uint64, *[uint32] * words)


_load_half = _relaxed_load(2, "sys")
_load_packet, _load_packet_here = _relaxed_load(4, "sys"), _relaxed_load(4, "gpu")
_store_packet, _store_packet_here = _relaxed_store(4, "sys"), _relaxed_store(4, "gpu")
_store_half, _store_half_here = _relaxed_store(2, "sys"), _relaxed_store(2, "gpu")


@function
def load_half(array, i):
    return _load_half(address(array, int64(i)))


@function
def load_packet(array, i, scope=SYSTEM):
    if scope == DEVICE:
        return _load_packet_here(address(array, int64(i)))
    return _load_packet(address(array, int64(i)))


@function
def store_packet(array, i, a, b, c, d, scope=SYSTEM):
    if scope == DEVICE:
        _store_packet_here(address(array, int64(i)), uint32(a), uint32(b), uint32(c), uint32(d))
    else:
        _store_packet(address(array, int64(i)), uint32(a), uint32(b), uint32(c), uint32(d))


@function
def store_half(array, i, a, b, scope=SYSTEM):
    if scope == DEVICE:
        _store_half_here(address(array, int64(i)), uint32(a), uint32(b))
    else:
        _store_half(address(array, int64(i)), uint32(a), uint32(b))
