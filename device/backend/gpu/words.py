"""The plain words of a kernel, for Numba-CUDA. The contract is in ../README.md."""

import math

from llvmlite import ir
from numba import cuda
from numba.cuda import cgutils, types
from numba.cuda.extending import intrinsic
from numba.cuda.np import arrayobj

from .constants import Constants  # noqa: F401 (one of the words)

int32, int64, uint16, uint32, uint64, float32 = (
    types.int32,
    types.int64,
    types.uint16,
    types.uint32,
    types.uint64,
    types.float32,
)
WARP_SIZE = 32
FULL_WARP = 0xFFFFFFFF
LOG2_E = 1.4426950408889634
POLLS_BETWEEN_CHECKS = 256


def kernel(function):
    """Marks an entry point; `Device.compile` turns it into machine code for the arguments it is given."""
    return function


function = cuda.jit(device=True, forceinline=True)


def ptx(text, constraints, result, *arguments, pure=False, convergent=False):
    """An intrinsic that is one line of inline PTX over scalars. pure: its result depends on these alone.

    convergent: threads meet there, and it must not be copied into branches.
    """
    attributes = ("convergent",) if convergent else ()

    def codegen(context, builder, sig, args):
        returned = ir.VoidType() if result is types.void else context.get_value_type(result)
        kind = ir.FunctionType(returned, [value.type for value in args])
        value = builder.call(ir.InlineAsm(kind, text, constraints, side_effect=not pure), args, attrs=attributes)
        return context.get_dummy_value() if result is types.void else value

    typed = result(*arguments), codegen
    by_arity = (  # Numba wants each parameter by name
        lambda typingctx: typed,
        lambda typingctx, a: typed,
        lambda typingctx, a, b: typed,
        lambda typingctx, a, b, c: typed,
        lambda typingctx, a, b, c, d: typed,
        lambda typingctx, a, b, c, d, e: typed,
    )
    return intrinsic(by_arity[len(arguments)])


# --- indices and barriers ---

# Read anew at each use: what is computed from one that the compiler may keep stays in registers, until they spill.
_thread = ptx("mov.u32 $0, %tid.x;", "=r", uint32)
_block = ptx("mov.u32 $0, %ctaid.x;", "=r", uint32)
_block_size = ptx("mov.u32 $0, %ntid.x;", "=r", uint32)
_grid_size = ptx("mov.u32 $0, %nctaid.x;", "=r", uint32)


@function
def thread_index():
    return int64(_thread())


@function
def block_index():
    return int64(_block())


@function
def block_size():
    return int64(_block_size())


@function
def grid_size():
    return int64(_grid_size())


@function
def warp_size():
    return int64(WARP_SIZE)


@function
def lane_index():
    return int64(_thread()) & (WARP_SIZE - 1)


@function
def warp_index():
    return int64(_thread()) >> 5


@function
def sync_block():
    cuda.syncthreads()


@function
def sync_warp():
    cuda.syncwarp(FULL_WARP)


# Written out: a loop over the steps stays a loop, at five times the instructions.


@function
def warp_sum(value):
    value += cuda.shfl_xor_sync(FULL_WARP, value, 16)
    value += cuda.shfl_xor_sync(FULL_WARP, value, 8)
    value += cuda.shfl_xor_sync(FULL_WARP, value, 4)
    value += cuda.shfl_xor_sync(FULL_WARP, value, 2)
    return value + cuda.shfl_xor_sync(FULL_WARP, value, 1)


@function
def warp_max(value):
    value = max(value, cuda.shfl_xor_sync(FULL_WARP, value, 16))
    value = max(value, cuda.shfl_xor_sync(FULL_WARP, value, 8))
    value = max(value, cuda.shfl_xor_sync(FULL_WARP, value, 4))
    value = max(value, cuda.shfl_xor_sync(FULL_WARP, value, 2))
    return max(value, cuda.shfl_xor_sync(FULL_WARP, value, 1))


@function
def _higher_key(key, step):
    return max(key, uint64(cuda.shfl_xor_sync(FULL_WARP, int64(key), step)))


@function
def warp_max_key(key):
    return _higher_key(_higher_key(_higher_key(_higher_key(_higher_key(key, 16), 8), 4), 2), 1)


# --- the kernels before and after this one in a stream (PTX ISA, "griddepcontrol") ---


wait_for_prior_kernel = ptx("griddepcontrol.wait;", "~{memory}", types.void)
start_next_kernel = ptx("griddepcontrol.launch_dependents;", "~{memory}", types.void)


# --- memory of a block and of a thread ---


def view_of(context, builder, array_type, data, count):
    """An array struct of `count` elements over the pointer `data`."""
    array = arrayobj.make_array(array_type)(context, builder)
    item_bytes = context.get_abi_sizeof(context.get_data_type(array_type.dtype))
    size = context.get_constant(types.intp, item_bytes)
    arrayobj.populate_array(
        array, data=builder.bitcast(data, array.data.type), shape=[count], strides=[size], itemsize=size, meminfo=None
    )
    return array._getvalue()


@intrinsic
def shared(typingctx, offset, count, dtype):
    array_type = types.Array(dtype.dtype, 1, "C")

    def codegen(context, builder, sig, args):
        module, name, space = builder.module, "block_shared_memory", 3
        memory = module.globals.get(name)
        if memory is None:
            memory = ir.GlobalVariable(module, ir.ArrayType(ir.IntType(8), 0), name, addrspace=space)
            memory.linkage, memory.align = "external", 128
        zero = ir.Constant(ir.IntType(32), 0)
        base = builder.addrspacecast(builder.gep(memory, [zero, zero]), ir.IntType(8).as_pointer(), "generic")
        return view_of(context, builder, array_type, builder.gep(base, [args[0]]), args[1])

    return array_type(types.int64, types.int64, dtype), codegen


@intrinsic
def local(typingctx, count, dtype):
    if not isinstance(count, types.IntegerLiteral):
        return None
    array_type, length = types.Array(dtype.dtype, 1, "C"), count.literal_value

    def codegen(context, builder, sig, args):
        memory = cgutils.alloca_once(builder, ir.ArrayType(context.get_data_type(dtype.dtype), length))
        return view_of(context, builder, array_type, memory, context.get_constant(types.intp, length))

    return array_type(count, dtype), codegen


# --- time, bits, functions ---


_nanosleep = ptx("nanosleep.u32 $0;", "r", types.void, uint32)
_globaltimer = ptx("mov.u64 $0, %globaltimer;", "=l", types.int64)
_clock64 = ptx("mov.u64 $0, %clock64;", "=l", types.int64)


@function
def pause(nanoseconds=40, polls=0):
    """A short nap: a poll less, and its bandwidth for the data that it waits for."""
    if nanoseconds > 0:
        _nanosleep(uint32(nanoseconds))


@function
def clock():
    return _globaltimer()


@function
def cycles():
    return _clock64()


_exp2 = ptx("ex2.approx.ftz.f32 $0, $1;", "=f,f", float32, float32, pure=True)


@function
def exp(x):
    return _exp2(float32(x) * float32(LOG2_E))


@function
def log(x):
    return math.log(float32(x))


@function
def sqrt(x):
    return math.sqrt(float32(x))


rsqrt = ptx("rsqrt.approx.ftz.f32 $0, $1;", "=f,f", float32, float32, pure=True)
divide = ptx("div.full.ftz.f32 $0, $1, $2;", "=f,f,f", float32, float32, float32, pure=True)


@function
def sin(x):
    return math.sin(float32(x))


@function
def cos(x):
    return math.cos(float32(x))
