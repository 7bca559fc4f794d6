"""Loads, stores, atomics and the copy engine, as inline PTX. The contract is in ../README.md.

Sources: PTX ISA 8.x, "Memory Consistency Model" (relaxed, acquire and release at a scope), "mbarrier", "cp.async.bulk".
"""

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic
from numba.cuda.np import arrayobj

from .words import function, int64, ptx, uint32, uint64

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


# --- mbarriers and bulk copies: shared addresses are 32-bit ---


@intrinsic
def _shared_address(typingctx, array, i):
    def codegen(context, builder, sig, args):
        pointer = element(context, builder, sig.args[0], *args)
        in_shared = builder.addrspacecast(pointer, pointer.type.pointee.as_pointer(3))
        return builder.ptrtoint(in_shared, I32)

    return types.uint32(array, types.int64), codegen


_init = ptx("mbarrier.init.shared::cta.b64 [$0], 1;", "r,~{memory}", types.void, uint32)
_expect = ptx("mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;", "r,r,~{memory}", types.void, uint32, uint32)
_inval = ptx("mbarrier.inval.shared::cta.b64 [$0];", "r,~{memory}", types.void, uint32)
_arrive = ptx("mbarrier.arrive.shared::cta.b64 _, [$0];", "r,~{memory}", types.void, uint32)


def _poll(instruction):
    text = f"{{ .reg .pred p; mbarrier.{instruction}.parity.shared::cta.b64 p, [$1], $2; selp.u32 $0,1,0,p; }}"
    return ptx(text, "=r,r,r,~{memory}", uint32, uint32, uint32)


_test, _try_for_some_time = _poll("test_wait"), _poll("try_wait")
_bulk = ptx(  # of what is read once, the L2 keeps nothing in the place of what will be read again
    "{ .reg .b64 once; createpolicy.fractional.L2::evict_first.b64 once, 1.0; "
    "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [$0], [$1], $2, [$3], once; }",
    "r,l,r,r,~{memory}",
    types.void,
    uint32,
    uint64,
    uint32,
    uint32,
)
_prefetch = ptx("cp.async.bulk.prefetch.L2.global [$0], $1;", "l,r,~{memory}", types.void, uint64, uint32)
_fence_proxy = ptx("fence.proxy.async.shared::cta;", "~{memory}", types.void)


@function
def barrier_init(array, i):
    _init(_shared_address(array, int64(i)))


@function
def barrier_end(array, i):
    _inval(_shared_address(array, int64(i)))


@function
def barrier_expect(array, i, nbytes):
    _expect(_shared_address(array, int64(i)), uint32(nbytes))


@function
def barrier_arrive(array, i):
    _arrive(_shared_address(array, int64(i)))


@function
def barrier_test(array, i, parity):
    return _test(_shared_address(array, int64(i)), uint32(parity)) != 0


@function
def barrier_wait(array, i, parity):
    while _try_for_some_time(_shared_address(array, int64(i)), uint32(parity)) == 0:
        pass


@function
def barrier_fence():
    _fence_proxy()


@function
def bulk_load(target, to, source, start, nbytes, array, i):
    _bulk(
        _shared_address(target, int64(to)),
        address(source, int64(start)),
        uint32(nbytes),
        _shared_address(array, int64(i)),
    )


@function
def prefetch(array, i, nbytes):
    _prefetch(address(array, int64(i)), uint32(nbytes))


__all__ = [name for name in dir() if not name.startswith("_") and name not in ("cuda", "ir", "types", "I32", "I64")]
