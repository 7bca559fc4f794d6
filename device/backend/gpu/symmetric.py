"""NVSHMEM's one-sided verbs through nvshmem4py's device bindings. The contract is in ../README.md.

A kernel that calls none of them is compiled without NVSHMEM. Source: NVSHMEM API, "Remote memory access", "Signaling
operations", "Memory ordering".
"""

from numba.cuda import types
from numba.cuda.extending import intrinsic
from nvshmem.bindings.device import numba as nvshmem

from .memory import element, load_acquire
from .words import function, int32, int64, uint64

SIGNAL_SET = 9  # nvshmemx: NVSHMEM_SIGNAL_SET


@intrinsic
def _bytes(typingctx, array, i):
    """The address of `array[i]` as the bindings' `void *`."""
    result = types.CPointer(types.none)

    def codegen(context, builder, sig, args):
        return builder.bitcast(element(context, builder, sig.args[0], *args), context.get_value_type(result))

    return result(array, types.int64), codegen


@intrinsic
def _words(typingctx, array, i):
    """The address of `array[i]` as `uint64_t *`."""
    result = types.CPointer(types.uint64)

    def codegen(context, builder, sig, args):
        return builder.bitcast(element(context, builder, sig.args[0], *args), context.get_value_type(result))

    return result(array, types.int64), codegen


def _verbs(suffix):
    """put, get and put_signal for one scope: "" (thread), "_warp" or "_block"."""
    raw_put, raw_get = getattr(nvshmem, f"putmem{suffix}"), getattr(nvshmem, f"getmem{suffix}")
    raw_put_signal = getattr(nvshmem, f"putmem_signal{suffix}")

    @function
    def put(target, to, source, start, count, pe):
        nbytes = uint64(count * source.itemsize)
        raw_put(_bytes(target, int64(to)), _bytes(source, int64(start)), nbytes, int32(pe))

    @function
    def get(target, to, source, start, count, pe):
        nbytes = uint64(count * source.itemsize)
        raw_get(_bytes(target, int64(to)), _bytes(source, int64(start)), nbytes, int32(pe))

    @function
    def put_signal(target, to, source, start, count, signals, i, value, pe):
        nbytes = uint64(count * source.itemsize)
        raw_put_signal(
            _bytes(target, int64(to)),
            _bytes(source, int64(start)),
            nbytes,
            _words(signals, int64(i)),
            uint64(value),
            int32(SIGNAL_SET),
            int32(pe),
        )

    return put, get, put_signal


put, get, put_signal = _verbs("")
put_warp, get_warp, put_signal_warp = _verbs("_warp")
put_block, get_block, put_signal_block = _verbs("_block")


@function
def signal(signals, i, value, pe):
    nvshmem.signal_op(_words(signals, int64(i)), uint64(value), int32(SIGNAL_SET), int32(pe))


@function
def signal_fetch(signals, i):
    return load_acquire(signals, int64(i))


@function
def fence():
    nvshmem.fence()


@function
def quiet():
    nvshmem.quiet()
