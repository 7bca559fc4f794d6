"""Numba arrays inside intrinsics: a view over an address, the address of an element."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np import arrayobj

from .context import I64, load_field


def view_of(context, builder, kind, data, count):
    """The array struct of `count` elements over the pointer `data`."""
    array = arrayobj.make_array(kind)(context, builder)
    size = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    data = builder.bitcast(data, array.data.type)
    arrayobj.populate_array(array, data=data, shape=[count], strides=[size], itemsize=size, meminfo=None)
    return array._getvalue()


def element(context, builder, kind, array, i, as_type=None):
    """A pointer to element `i`; with `as_type`, to that LLVM type."""
    place = builder.gep(arrayobj.make_array(kind)(context, builder, array).data, [i])
    return builder.bitcast(place, as_type.as_pointer()) if as_type else place


def contiguous(dtype):
    return types.Array(dtype, 1, "C")


def field_view(field, dtype, count):
    """A device function: the array of `count` elements whose address is a field of this thread's record."""
    kind = contiguous(dtype)

    @intrinsic
    def view(typingctx):
        def codegen(context, builder, sig, args):
            data = builder.inttoptr(load_field(builder, field), ir.IntType(8).as_pointer())
            return view_of(context, builder, kind, data, ir.Constant(I64, count))

        return kind(), codegen

    return view
