"""Memory of the GPU, and memory of the host that it reaches, as arrays that kernels take."""

import ctypes
import weakref

import numpy as np
from cuda.bindings import driver

from .current import enter
from .errors import check

__all__ = ["DeviceArray", "MappedArray", "view"]


class DeviceArray:
    """Device memory as an array: an argument of kernels.

    `address` is a device address, `shape` a tuple, `dtype` NumPy's. `owner` keeps the memory alive.
    """

    def __init__(self, address, shape, dtype, owner=None):
        self.address, self.dtype, self._owner = int(address), np.dtype(dtype), owner
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.size = int(np.prod(self.shape, dtype=np.int64))
        self.nbytes = self.size * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self):
        return dict(shape=self.shape, typestr=self.dtype.str, data=(self.address, False), version=3, strides=None)

    def fill(self, values, start=0):
        """Copies a host array to element `start` on; returns when it is there."""
        values = np.ascontiguousarray(values, self.dtype)
        if start < 0 or start + values.size > self.size:
            raise ValueError(f"{values.size} elements do not fit at {start} of {self.size}")
        if values.size:
            enter()
            check(driver.cuMemcpyHtoD(self.address + start * self.dtype.itemsize, values.ctypes.data, values.nbytes))
            check(driver.cuStreamSynchronize(0))  # the last of it may still be under way, and no kernel waits for it

    def numpy(self):
        """A copy on the host."""
        out = np.empty(self.shape, self.dtype)
        if out.size:
            enter()
            check(driver.cuMemcpyDtoH(out.ctypes.data, self.address, out.nbytes))
        return out

    def free(self):
        """Gives the memory back now instead of when the last reference goes."""
        if self._owner is not None:
            self._owner()
            self._owner = None


def view(address, shape, dtype):
    """Symmetric or foreign device memory as a kernel's argument; does not own it."""
    return DeviceArray(address, shape, dtype)


class MappedArray(DeviceArray):
    """Page-locked host memory that the kernel reaches: `.host` is the NumPy view of the same bytes."""

    def __init__(self, shape, dtype):
        count = int(np.prod(shape, dtype=np.int64))
        nbytes = max(1, count) * np.dtype(dtype).itemsize
        flags = driver.CU_MEMHOSTALLOC_DEVICEMAP | driver.CU_MEMHOSTALLOC_PORTABLE
        pointer = check(driver.cuMemHostAlloc(nbytes, flags))
        ctypes.memset(pointer, 0, nbytes)
        super().__init__(check(driver.cuMemHostGetDevicePointer(pointer, 0)), shape, dtype)
        self._owner = weakref.finalize(self, driver.cuMemFreeHost, pointer)
        self.host = np.frombuffer((ctypes.c_char * nbytes).from_address(pointer), dtype, count).reshape(self.shape)
