"""The plain words of a kernel, for the host's threads. The contract is in ../README.md."""

import math

from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic
from numba.types import float32, int32, int64, uint16, uint32, uint64

from . import context as record
from .arrays import contiguous, view_of
from .compiler import function, kernel
from .constants import Constants
from .context import I32, I64, POINTER, call, field_reader, load_field, pause
from .stack import local

__all__ = [
    "POLLS_BETWEEN_CHECKS",
    "Constants",
    "block_index",
    "block_size",
    "clock",
    "cycles",
    "cos",
    "divide",
    "exp",
    "float32",
    "function",
    "grid_size",
    "int32",
    "int64",
    "kernel",
    "lane_index",
    "local",
    "log",
    "pause",
    "rsqrt",
    "shared",
    "sin",
    "sqrt",
    "start_next_kernel",
    "thread_index",
    "uint16",
    "uint32",
    "uint64",
    "wait_for_prior_kernel",
    "warp_index",
    "warp_size",
]

POLLS_BETWEEN_CHECKS = 1  # a poll may wait for a core

# --- indices ---

thread_index, block_index = field_reader(record.THREAD), field_reader(record.BLOCK)
block_size, grid_size = field_reader(record.BLOCK_SIZE), field_reader(record.GRID_SIZE)
warp_size = field_reader(record.WARP_SIZE)


@function
def lane_index():
    return thread_index() % warp_size()


@function
def warp_index():
    return thread_index() // warp_size()


# --- the kernels before and after this one in a stream ---


@intrinsic
def _running_before(typingctx):
    """How many threads of the kernel before have not left it."""

    def codegen(context, builder, sig, args):
        count = builder.inttoptr(load_field(builder, record.PRIOR), I64.as_pointer())
        return builder.load_atomic(count, "acquire", 8)

    return int64(), codegen


@function
def wait_for_prior_kernel():
    polls = 0
    while _running_before() > 0:
        polls += 1
        pause(0, polls)


@function
def start_next_kernel():
    pass


# --- memory of a block ---


@intrinsic
def shared(typingctx, offset, count, dtype):
    """A view of the block's shared memory: `count` elements, `offset` bytes in."""
    kind = contiguous(dtype.dtype)

    def codegen(context, builder, sig, args):
        end = builder.add(args[0], builder.mul(args[1], I64(kind.dtype.bitwidth // 8)))
        beyond = builder.icmp_signed(">", end, load_field(builder, record.SHARED_BYTES))
        with cgutils.if_unlikely(builder, builder.or_(beyond, builder.icmp_signed("<", args[0], I64(0)))):
            message = ("shared memory beyond the launch's shared_bytes",)
            context.call_conv.return_user_exc(builder, IndexError, message)
        data = builder.inttoptr(builder.add(load_field(builder, record.SHARED), args[0]), POINTER)
        return view_of(context, builder, kind, data, args[1])

    return kind(int64, int64, dtype), codegen


# --- time, bits, functions ---


@intrinsic
def clock(typingctx):
    """Nanoseconds of the host's monotonic clock."""

    def codegen(context, builder, sig, args):
        now = cgutils.alloca_once(builder, ir.ArrayType(I64, 2))  # struct timespec
        call(builder, "clock_gettime", I32, ir.Constant(I32, 1), builder.bitcast(now, POINTER))
        seconds, nanoseconds = (builder.extract_value(builder.load(now), n) for n in range(2))
        return builder.add(builder.mul(seconds, ir.Constant(I64, 10**9)), nanoseconds)

    return int64(), codegen


@function
def cycles():
    """The clock: the host's threads have no counter of their own."""
    return clock()


@function
def exp(x):
    return math.exp(float32(x))


@function
def log(x):
    return math.log(float32(x))


@function
def sqrt(x):
    return math.sqrt(float32(x))


@function
def rsqrt(x):
    return float32(1) / math.sqrt(float32(x))


@function
def divide(a, b):
    return float32(a) / float32(b)


@function
def sin(x):
    return math.sin(float32(x))


@function
def cos(x):
    return math.cos(float32(x))
