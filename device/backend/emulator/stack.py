"""`local`: private arrays of a thread, on the OS thread's stack."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .arrays import contiguous, view_of
from .context import I64

__all__ = ["local"]

ALIGNMENT = 16  # bytes: a vector's


@intrinsic(prefer_literal=True)
def local(typingctx, count, dtype):
    """A private array on this thread's stack, until its function returns; in a loop it is the same one each time.

    A field of `Constants` is a run-time value here, so any integer is taken for `count`.
    """
    kind = contiguous(dtype.dtype)
    literal = isinstance(count, types.IntegerLiteral)

    def codegen(context, builder, sig, args):
        length = ir.Constant(I64, count.literal_value) if literal else args[0]
        place = _fixed if literal else _sized
        return view_of(context, builder, kind, place(builder, context.get_data_type(kind.dtype), length), length)

    return kind(count if literal else types.int64, dtype), codegen


def _fixed(builder, item, length):
    """Memory that the function has from its start."""
    memory = cgutils.alloca_once(builder, item, length)
    memory.align = ALIGNMENT
    return memory


def _sized(builder, item, length):
    """Memory of a size known at run time: taken when this place is first reached, or when it asks for more."""
    size = cgutils.alloca_once(builder, I64)  # 0 when the function starts
    place = cgutils.alloca_once(builder, item.as_pointer())
    with builder.if_then(builder.icmp_signed(">", length, builder.load(size))):
        memory = builder.alloca(item, length)
        memory.align = ALIGNMENT
        builder.store(memory, place)
        builder.store(length, size)
    return builder.load(place)
