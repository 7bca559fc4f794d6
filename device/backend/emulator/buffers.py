"""Arrays of the host that kernels take: zeroed, aligned, or over memory that exists."""

import ctypes
import math

import numpy as np

from shmemtp.errors import ShmemtpError

LINE = 128  # bytes: every array starts on one


def aligned(shape, dtype):
    """A zeroed NumPy array on a 128-byte line. Pages that nobody touches cost nothing."""
    nbytes = math.prod(np.atleast_1d(shape).tolist()) * np.dtype(dtype).itemsize
    memory = np.zeros(nbytes + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + nbytes].view(dtype).reshape(shape)


class Array:
    """Device memory: here the host's own.

    Attributes
    ----------
    array : numpy.ndarray
        The memory itself.
    shape, dtype, nbytes
        As in NumPy; nbytes in bytes.
    """

    def __init__(self, array):
        self.array = array
        self.shape, self.dtype, self.nbytes = array.shape, array.dtype, array.nbytes

    @property
    def address(self):
        """Where the first element lies."""
        return self.array.ctypes.data

    @property
    def __array_interface__(self):
        return self.array.__array_interface__

    def fill(self, values, start=0):
        """Copies `values` to the flat elements from `start` on; their dtype must be the array's."""
        values = np.ascontiguousarray(values)
        if values.dtype != self.dtype:
            raise ShmemtpError(f"fill takes {self.dtype} for this array, not {values.dtype}")
        if start < 0 or start + values.size > self.array.size:
            raise ShmemtpError(f"{values.size} elements from {start} on do not fit {self.array.size} elements")
        self.array.reshape(-1)[start : start + values.size] = values.reshape(-1)

    def numpy(self):
        """A copy on the host."""
        return self.array.copy()

    def free(self):
        """Gives the memory back; the array is empty afterwards."""
        self.array = np.zeros(0, self.dtype)


class Mapped(Array):
    """Memory that the kernel and the host see at once; `host` is the host's NumPy view."""

    @property
    def host(self):
        return self.array


def view(address, shape, dtype):
    """A kernel argument over symmetric memory (see `Heap.allocate`)."""
    dtype, shape = np.dtype(dtype), tuple(np.atleast_1d(shape).tolist())
    count = math.prod(shape)
    memory = (ctypes.c_uint8 * (count * dtype.itemsize)).from_address(address)
    return Array(np.frombuffer(memory, dtype, count).reshape(shape))
