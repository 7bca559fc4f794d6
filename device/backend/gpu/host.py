"""The host's side on GPUs: device memory, mapped memory, compiling and launching. The contract is in ../README.md."""

import ctypes
import time
import weakref

import numpy as np
from cuda.bindings import driver
from cuda.core import Device as CudaDevice
from numba.cuda import types
from numba.np.numpy_support import from_dtype

from .compile import Machine, compile_cubin
from .constants import Constants, ConstantsType
from .heap import NVSHMEM_STATE, Heap, attach_library, detach_library
from .words import WARP_SIZE

__all__ = ["Compiled", "Device", "DeviceArray", "Heap", "Launch", "MappedArray", "view"]

MAX_BLOCK = 1024


def check(result):
    """Raises what a driver call reported; returns its values."""
    status, *values = result
    if status != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"CUDA: {driver.cuGetErrorString(status)[1].decode()} ({status.name})")
    return values[0] if len(values) == 1 else values


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
            check(driver.cuMemcpyHtoD(self.address + start * self.dtype.itemsize, values.ctypes.data, values.nbytes))

    def numpy(self):
        """A copy on the host."""
        out = np.empty(self.shape, self.dtype)
        if out.size:
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


class Compiled:
    """A kernel in machine code, loaded: what `Device.launch` starts."""

    def __init__(self, cubin, seconds):
        self.cubin, self.seconds, self.cached = cubin, seconds, cubin.cached
        self._library = check(driver.cuLibraryLoadData(cubin.code, [], [], 0, [], [], 0))
        self.handle = check(driver.cuLibraryGetKernel(self._library, cubin.name.encode()))
        self._uses_nvshmem = NVSHMEM_STATE in cubin.code
        if self._uses_nvshmem:
            attach_library(int(self._library))

    def unload(self):
        if self._uses_nvshmem:
            detach_library(int(self._library))
        check(driver.cuLibraryUnload(self._library))


class Launch:
    """A kernel under way."""

    def __init__(self, stream, keep):
        self._stream, self._keep = stream, keep

    def done(self):
        """True once it has ended; raises if it failed. Does not wait."""
        status = driver.cuStreamQuery(self._stream)[0]
        if status == driver.CUresult.CUDA_ERROR_NOT_READY:
            return False
        check((status,))
        return True

    def wait(self):
        """Returns when the kernel has ended; raises if it failed."""
        check(driver.cuStreamSynchronize(self._stream))


class Device:
    """One process's GPU, chosen by its rank on the node."""

    warp_size = WARP_SIZE

    def __init__(self, local_rank=0):
        check(driver.cuInit(0))
        self.cuda = CudaDevice(local_rank)
        self.cuda.set_current()
        properties = self.cuda.properties
        self.name = self.cuda.name
        self.multiprocessors = properties.multiprocessor_count
        self.shared_bytes = properties.max_shared_memory_per_block_optin
        capability = self.cuda.compute_capability
        self.machine = Machine((capability[0], capability[1]), local_rank)
        self._stream = check(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))

    @staticmethod
    def count():
        """GPUs that this process can see."""
        check(driver.cuInit(0))
        return check(driver.cuDeviceGetCount())

    def memory(self):
        """(free, total) bytes of device memory."""
        return tuple(check(driver.cuMemGetInfo()))

    def array(self, shape, dtype):
        array = DeviceArray(0, shape, dtype)
        array.address = int(check(driver.cuMemAlloc(max(16, array.nbytes))))
        array._owner = weakref.finalize(array, driver.cuMemFree, array.address)
        check(driver.cuMemsetD8(array.address, 0, max(16, array.nbytes)))
        return array

    def mapped(self, shape, dtype):
        return MappedArray(shape, dtype)

    def compile(self, kernel, args, block=MAX_BLOCK):
        began = time.perf_counter()
        cubin = compile_cubin(kernel, tuple(argument_type(value) for value in args), block, self.machine)
        return Compiled(cubin, time.perf_counter() - began)

    def launch(self, compiled, grid, block, args, shared_bytes=0, warp=None, stream=None):
        """Starts `compiled` on grid x block threads. `warp` is for the emulator; a GPU's is 32."""
        if shared_bytes > 48 * 1024:
            limit = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            check(driver.cuKernelSetAttribute(limit, shared_bytes, compiled.handle, self.cuda.device_id))
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = grid, 1, 1
        config.blockDimX, config.blockDimY, config.blockDimZ = block, 1, 1
        config.sharedMemBytes = shared_bytes
        config.hStream = self._stream if stream is None else driver.CUstream(stream)
        together = driver.CUlaunchAttribute()  # all blocks resident at once, or an error: blocks wait for each other
        together.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
        together.value.cooperative = 1
        config.attrs, config.numAttrs = [together], 1
        packed = pack(args)
        pointers = (ctypes.c_void_p * len(packed))(*[ctypes.addressof(value) for value in packed])
        handle = driver.CUfunction(int(compiled.handle))
        check(driver.cuLaunchKernelEx(config, handle, ctypes.addressof(pointers), 0))
        return Launch(config.hStream, args)


def argument_type(value):
    """The Numba type under which a kernel receives `value`."""
    if isinstance(value, Constants):
        return ConstantsType(tuple(sorted(value.fields.items())))
    if isinstance(value, DeviceArray):
        return types.Array(from_dtype(value.dtype), len(value.shape), "C")
    return types.float32 if isinstance(value, (float, np.floating)) else types.int64


def pack(args):
    """The arguments as Numba's kernels take them: an array is its fields, one parameter each."""
    packed = []
    for value in args:
        if isinstance(value, Constants):
            packed.append(ctypes.c_int64(0))
        elif isinstance(value, DeviceArray):
            strides = value.dtype.itemsize * np.cumprod((1, *value.shape[:0:-1]), dtype=np.int64)[::-1]
            fields = (0, 0, value.size, value.dtype.itemsize, value.address, *value.shape, *strides)
            packed.extend(ctypes.c_int64(int(field)) for field in fields)
        elif isinstance(value, (float, np.floating)):
            packed.append(ctypes.c_float(value))
        else:
            packed.append(ctypes.c_int64(int(value)))
    return packed
