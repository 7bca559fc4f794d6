"""A kernel's arguments: their Numba types, and their bytes as its machine code takes them."""

import ctypes

import numpy as np
from numba.cuda import types
from numba.np.numpy_support import from_dtype

from .arrays import DeviceArray
from .constants import Constants, ConstantsType

__all__ = ["argument_type", "pack"]


def argument_type(value):
    """The Numba type under which a kernel receives `value`."""
    if isinstance(value, Constants):
        return ConstantsType(tuple(sorted(value.fields.items())))
    if isinstance(value, DeviceArray):
        return types.Array(from_dtype(value.dtype), len(value.shape), "C")
    if type(value) is tuple:
        return types.BaseTuple.from_types([argument_type(field) for field in value])
    if isinstance(value, tuple):
        return types.NamedTuple([argument_type(field) for field in value], type(value))
    return types.float32 if isinstance(value, (float, np.floating)) else types.int64


def pack(args):
    """The arguments as Numba's kernels take them: an array or a tuple is its fields, one parameter each."""
    packed = []
    for value in args:
        if isinstance(value, Constants):
            packed.append(ctypes.c_int64(0))
        elif isinstance(value, DeviceArray):
            strides = value.dtype.itemsize * np.cumprod((1, *value.shape[:0:-1]), dtype=np.int64)[::-1]
            fields = (0, 0, value.size, value.dtype.itemsize, value.address, *value.shape, *strides)
            packed.extend(ctypes.c_int64(int(field)) for field in fields)
        elif isinstance(value, tuple):
            packed.extend(pack(value))
        elif isinstance(value, (float, np.floating)):
            packed.append(ctypes.c_float(value))
        else:
            packed.append(ctypes.c_int64(int(value)))
    return packed
