"""A barrier of some threads, mbarriers and the copy engine, for Numba-CUDA. The contract is in ../README.md.

Sources: PTX ISA 8.x, "barrier", "mbarrier", "cp.async.bulk", "cp.async". Shared addresses are 32-bit.
"""

from llvmlite import ir
from numba.cuda import cgutils, types
from numba.cuda.extending import intrinsic

from .memory import address, element
from .words import function, int64, ptx, uint32, uint64

__all__ = [
    "await_copies",
    "barrier_arrive",
    "barrier_end",
    "barrier_expect",
    "barrier_fence",
    "barrier_init",
    "barrier_test",
    "barrier_wait",
    "bulk_fence",
    "bulk_load",
    "commit_copies",
    "copy_async",
    "prefetch",
    "sync_threads",
]

I32 = ir.IntType(32)


@intrinsic
def _sync_some(typingctx, count):
    """Barrier 1 of the block; 0 is sync_block's."""

    def codegen(context, builder, sig, args):
        kind = ir.FunctionType(ir.VoidType(), [I32, I32])
        barrier = cgutils.get_or_insert_function(builder.module, kind, "llvm.nvvm.barrier.sync.cnt")
        barrier.attributes.add("convergent")
        builder.call(barrier, [ir.Constant(I32, 1), args[0]])
        return context.get_dummy_value()

    return types.void(uint32), codegen


@function
def sync_threads(count):
    _sync_some(uint32(count))


@intrinsic
def shared_address(typingctx, array, i):
    def codegen(context, builder, sig, args):
        pointer = element(context, builder, sig.args[0], *args)
        in_shared = builder.addrspacecast(pointer, pointer.type.pointee.as_pointer(3))
        return builder.ptrtoint(in_shared, I32)

    return types.uint32(array, types.int64), codegen


_init = ptx("mbarrier.init.shared::cta.b64 [$0], $1;", "r,r,~{memory}", types.void, uint32, uint32)
_expect = ptx("mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;", "r,r,~{memory}", types.void, uint32, uint32)
_inval = ptx("mbarrier.inval.shared::cta.b64 [$0];", "r,~{memory}", types.void, uint32)
_arrive = ptx("mbarrier.arrive.shared::cta.b64 _, [$0];", "r,~{memory}", types.void, uint32)


def _poll(instruction):
    text = f"{{ .reg .pred p; mbarrier.{instruction}.parity.shared::cta.b64 p, [$1], $2; selp.u32 $0,1,0,p; }}"
    return ptx(text, "=r,r,r,~{memory}", uint32, uint32, uint32)


_test, _try_for_some_time = _poll("test_wait"), _poll("try_wait")
_BULK = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
_bulk = ptx(f"{_BULK} [$0], [$1], $2, [$3];", "r,l,r,r,~{memory}", types.void, uint32, uint64, uint32, uint32)
_bulk_once = ptx(
    "{ .reg .b64 once; createpolicy.fractional.L2::evict_first.b64 once, 1.0; "
    f"{_BULK}.L2::cache_hint [$0], [$1], $2, [$3], once; }}",
    "r,l,r,r,~{memory}",
    types.void,
    uint32,
    uint64,
    uint32,
    uint32,
)
_copy = ptx("cp.async.cg.shared.global [$0], [$1], 16;", "r,l,~{memory}", types.void, uint32, uint64)
_commit = ptx("cp.async.commit_group;", "~{memory}", types.void)
_await = ptx("cp.async.wait_group $0;", "n,~{memory}", types.void, uint32)
_prefetch = ptx("cp.async.bulk.prefetch.L2.global [$0], $1;", "l,r,~{memory}", types.void, uint64, uint32)
_fence_proxy = ptx("fence.proxy.async.shared::cta;", "~{memory}", types.void)
_fence_all_proxies = ptx("fence.proxy.async;", "~{memory}", types.void)


@function
def barrier_init(array, i, count=1):
    _init(shared_address(array, int64(i)), uint32(count))


@function
def barrier_end(array, i):
    _inval(shared_address(array, int64(i)))


@function
def barrier_expect(array, i, nbytes):
    _expect(shared_address(array, int64(i)), uint32(nbytes))


@function
def barrier_arrive(array, i):
    _arrive(shared_address(array, int64(i)))


@function
def barrier_test(array, i, parity):
    return _test(shared_address(array, int64(i)), uint32(parity)) != 0


@function
def barrier_wait(array, i, parity):
    while _try_for_some_time(shared_address(array, int64(i)), uint32(parity)) == 0:
        pass


@function
def barrier_fence():
    _fence_proxy()


@function
def bulk_fence():
    _fence_all_proxies()


@function
def bulk_load(target, to, source, start, nbytes, array, i, once=True):
    there, here = shared_address(target, int64(to)), address(source, int64(start))
    if once:
        _bulk_once(there, here, uint32(nbytes), shared_address(array, int64(i)))
    else:
        _bulk(there, here, uint32(nbytes), shared_address(array, int64(i)))


@function
def prefetch(array, i, nbytes):
    _prefetch(address(array, int64(i)), uint32(nbytes))


@function
def copy_async(target, to, source, start):
    _copy(shared_address(target, int64(to)), address(source, int64(start)))


@function
def commit_copies():
    _commit()


@function
def await_copies(groups):
    _await(uint32(groups))
