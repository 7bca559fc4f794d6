"""The host's side on GPUs: the device itself, compiling and launching. The contract is in ../README.md."""

import ctypes
import time
import weakref

from cuda.bindings import driver
from cuda.core import Device as CudaDevice

from .arguments import argument_type, pack
from .arrays import DeviceArray, MappedArray, view
from .compile import Machine, compile_cubin
from .errors import check
from .heap import Heap
from .launch import Compiled, Launch
from .words import WARP_SIZE

__all__ = ["Compiled", "Device", "DeviceArray", "Heap", "Launch", "MappedArray", "view"]

MAX_BLOCK = 1024


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
