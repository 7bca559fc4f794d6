"""Who a kernel's thread is: a record of int64 fields behind one thread-specific pointer.

The host fills one record per thread and binds it on the thread that then calls the kernel, so kernels and device
functions need no extra argument.
"""

import ctypes

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .compiler import function

I32, I64, POINTER = ir.IntType(32), ir.IntType(64), ir.IntType(8).as_pointer()

# The record's fields.
THREAD, BLOCK, BLOCK_SIZE, GRID_SIZE, WARP_SIZE, CLUSTER_SIZE, PES, SHARED_BYTES, SHARED_ROW = range(9)
SHARED, SCRATCH, BLOCK_BARRIER, WARP_BARRIER, FAILED, DISTANCES, PRIOR = range(9, 16)  # addresses
HEAP, HEAP_BYTES = 16, 17
FIELDS = 18
LEFT = 8  # of a barrier's row: how many of its threads have left the kernel

YIELDS = 100  # polls of a wait before its thread sleeps, each time SLEEP_STEP longer
SLEEP_STEP, LONGEST_SLEEP = 10, 500  # microseconds

_KEY = "shmemtp_context_key"
_libc, _key = ctypes.CDLL(None), ctypes.c_uint()
if _libc.pthread_key_create(ctypes.byref(_key), None) != 0:
    raise OSError("pthread_key_create failed: this process has no thread-specific key left")
binding.add_symbol(_KEY, ctypes.addressof(_key))


class KernelAborted(RuntimeError):
    """Another thread of the launch raised; this one leaves too, so that the launch ends."""


def call(builder, name, result, *args, attributes=("nounwind",)):
    """Calls a C function of this process."""
    kind = ir.FunctionType(result, [value.type for value in args])
    callee = cgutils.get_or_insert_function(builder.module, kind, name)
    for attribute in attributes:
        callee.attributes.add(attribute)
    return builder.call(callee, args)


def _load_key(builder):
    module = builder.module
    return builder.load(module.globals.get(_KEY) or ir.GlobalVariable(module, I32, _KEY))


def load_field(builder, field):
    """A field of this thread's record. Neither pointer nor record changes in a launch, so LLVM may hoist the load."""
    record = call(builder, "pthread_getspecific", POINTER, _load_key(builder), attributes=("nounwind", "readnone"))
    place = builder.gep(builder.bitcast(record, I64.as_pointer()), [ir.Constant(I64, field)])
    value = builder.load(place)
    value.set_metadata("invariant.load", builder.module.add_metadata([]))
    return value


def field_reader(field):
    """A device function that returns one field as int64."""

    @intrinsic
    def read(typingctx):
        return types.int64(), lambda context, builder, sig, args: load_field(builder, field)

    return read


def bind(record):
    """Makes the record at this address the calling OS thread's own."""
    _libc.pthread_setspecific(_key, ctypes.c_void_p(record))


@intrinsic
def _yield(typingctx):
    def codegen(context, builder, sig, args):
        call(builder, "sched_yield", I32)
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def _sleep(typingctx, microseconds):
    def codegen(context, builder, sig, args):
        call(builder, "usleep", I32, builder.trunc(args[0], I32))
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def _failed(typingctx):
    def codegen(context, builder, sig, args):
        flag = builder.inttoptr(load_field(builder, FAILED), I64.as_pointer())
        return builder.trunc(builder.load_atomic(flag, "monotonic", 8), ir.IntType(1))

    return types.boolean(), codegen


@function
def pause(nanoseconds=40, polls=0):
    """Lets another thread run; every spin calls it. Leaves the kernel when another thread of the launch raised.

    Threads that have waited for long sleep: there are many more of them than cores, and those that others wait for
    would hardly run. The longer the wait, the longer the sleep, which so adds little to it.
    """
    if polls < YIELDS:
        _yield()
    else:
        _sleep(min(SLEEP_STEP * (types.int64(polls) - YIELDS), LONGEST_SLEEP))
    if _failed():
        raise KernelAborted
