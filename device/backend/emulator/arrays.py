"""Numba arrays inside intrinsics: a view over an address, the address of an element."""

from llvmlite import ir
from numba import config, types
from numba.core import cgutils
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


def first_element(context, builder, kind, array):
    """A pointer to element 0, be there one or not."""
    return arrayobj.make_array(kind)(context, builder, array).data


def element(context, builder, kind, array, i, as_type=None):
    """A pointer to element `i`; with `as_type`, to that LLVM type.

    Where indices are checked (NUMBA_BOUNDSCHECK), one beyond the array is an IndexError, below 0 too.
    """
    if config.BOUNDSCHECK:
        size = context.get_abi_sizeof(as_type) if as_type else kind.dtype.bitwidth // 8
        check_range(context, builder, kind, array, i, ir.Constant(I64, size))
    place = builder.gep(first_element(context, builder, kind, array), [i])
    return builder.bitcast(place, as_type.as_pointer()) if as_type else place


def check_range(context, builder, kind, array, i, nbytes):
    """An IndexError unless `nbytes` bytes from element `i` on are the array's."""
    item = ir.Constant(I64, kind.dtype.bitwidth // 8)
    count = builder.extract_value(arrayobj.make_array(kind)(context, builder, array).shape, 0)
    end = builder.add(builder.mul(i, item), nbytes)
    beyond = builder.icmp_signed(">", end, builder.mul(count, item))
    with cgutils.if_unlikely(builder, builder.or_(beyond, builder.icmp_signed("<", i, ir.Constant(I64, 0)))):
        context.call_conv.return_user_exc(builder, IndexError, ("a load, store, copy or hint reaches beyond an array",))


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
