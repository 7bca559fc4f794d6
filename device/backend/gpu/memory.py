"""Loads, stores and atomics as inline PTX. The contract is in ../README.md.

Source: PTX ISA 8.x, "Memory Consistency Model" (relaxed, acquire and release at a scope).
"""

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic
from numba.cuda.np import arrayobj

I32, I64 = ir.IntType(32), ir.IntType(64)


def element(context, builder, array_type, array, index):
    """The address of `array[index]`."""
    return builder.gep(arrayobj.make_array(array_type)(context, builder, array).data, [index])


@intrinsic
def address(typingctx, array, i):
    """The generic address of `array[i]`, as uint64."""

    def codegen(context, builder, sig, args):
        return builder.ptrtoint(element(context, builder, sig.args[0], *args), I64)

    return types.uint64(array, types.int64), codegen


def _ordered_load(order):
    @intrinsic
    def load(typingctx, array, i):
        bits = array.dtype.bitwidth

        def codegen(context, builder, sig, args):
            kind = ir.FunctionType(ir.IntType(bits), [I64])
            constraints = f"={'l' if bits == 64 else 'r'},l,~{{memory}}"
            asm = ir.InlineAsm(kind, f"ld.{order}.sys.global.b{bits} $0, [$1];", constraints, side_effect=True)
            return builder.call(asm, [builder.ptrtoint(element(context, builder, sig.args[0], *args), I64)])

        return array.dtype(array, types.int64), codegen

    return load


def _ordered_store(order):
    @intrinsic
    def store(typingctx, array, i, value):
        bits = array.dtype.bitwidth

        def codegen(context, builder, sig, args):
            kind = ir.FunctionType(ir.VoidType(), [I64, ir.IntType(bits)])
            constraints = f"l,{'l' if bits == 64 else 'r'},~{{memory}}"
            asm = ir.InlineAsm(kind, f"st.{order}.sys.global.b{bits} [$0], $1;", constraints, side_effect=True)
            builder.call(asm, [builder.ptrtoint(element(context, builder, sig.args[0], *args[:2]), I64), args[2]])
            return context.get_dummy_value()

        return types.void(array, types.int64, array.dtype), codegen

    return store


load_acquire, load_relaxed = _ordered_load("acquire"), _ordered_load("relaxed")
store_release, store_relaxed = _ordered_store("release"), _ordered_store("relaxed")


def _atomic(operation, operands):
    """atom.acq_rel.gpu: `operands` values beside the address."""

    def build(array, sig_args):
        bits = array.dtype.bitwidth
        letter = "l" if bits == 64 else "r"
        suffix = f"{'u' if operation == 'add' else 'b'}{bits}"

        def codegen(context, builder, sig, args):
            kind = ir.FunctionType(ir.IntType(bits), [I64] + [ir.IntType(bits)] * operands)
            names = ", ".join(f"${2 + n}" for n in range(operands))
            text = f"atom.acq_rel.gpu.global.{operation}.{suffix} $0, [$1], {names};"
            constraints = ",".join([f"={letter}", "l", *[letter] * operands, "~{memory}"])
            at = builder.ptrtoint(element(context, builder, sig.args[0], *args[:2]), I64)
            return builder.call(ir.InlineAsm(kind, text, constraints, side_effect=True), [at, *args[2:]])

        return array.dtype(array, types.int64, *[array.dtype] * operands), codegen

    return build


@intrinsic
def atomic_add(typingctx, array, i, value):
    return _atomic("add", 1)(array, (i, value))


@intrinsic
def atomic_cas(typingctx, array, i, expected, desired):
    return _atomic("cas", 2)(array, (i, expected, desired))


@intrinsic
def peer(typingctx, array, distance):
    def codegen(context, builder, sig, args):
        mine = arrayobj.make_array(sig.args[0])(context, builder, args[0])
        shifted = builder.add(builder.ptrtoint(mine.data, I64), args[1])
        mine.data = builder.inttoptr(shifted, mine.data.type)
        return mine._getvalue()

    return array(array, types.int64), codegen


__all__ = [name for name in dir() if not name.startswith("_") and name not in ("cuda", "ir", "types", "I32", "I64")]
