"""Kernels loaded and under way."""

from cuda.bindings import driver

from .current import enter
from .errors import check
from .heap import NVSHMEM_STATE, attach_library, detach_library

__all__ = ["Compiled", "Launch"]

SHARED_BYTES = 48 * 1024  # of a block, before a kernel asks for more


class Compiled:
    """A kernel in machine code, loaded: what `Device.launch` starts.

    Loaded at once, not at its first launch: CUDA might wait then for kernels that run, and these for this one.
    """

    def __init__(self, kernel, cubin, seconds):
        self.kernel, self.cubin, self.seconds, self.cached = kernel, cubin, seconds, cubin.cached
        self._shared_bytes = SHARED_BYTES
        self._library = check(driver.cuLibraryLoadData(cubin.code, [], [], 0, [], [], 0))
        self._uses_nvshmem = NVSHMEM_STATE in cubin.code
        if self._uses_nvshmem:
            attach_library(int(self._library))
        kernel = check(driver.cuLibraryGetKernel(self._library, cubin.name.encode()))
        self.function = check(driver.cuKernelGetFunction(kernel))

    def allow_shared(self, nbytes):
        """Lets launches ask for so much shared memory. The limit only rises: launches prepared before need theirs."""
        if nbytes > self._shared_bytes:
            limit = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            check(driver.cuFuncSetAttribute(self.function, limit, nbytes))
            self._shared_bytes = nbytes

    def unload(self):
        if self._uses_nvshmem:
            detach_library(int(self._library))
        check(driver.cuLibraryUnload(self._library))


class Launch:
    """A kernel under way: what its stream does. Not to be asked while that stream is captured."""

    def __init__(self, stream, keep):
        self._stream, self._keep = stream, keep

    def done(self):
        """True once it has ended; raises if it failed. Does not wait."""
        enter()
        status = driver.cuStreamQuery(self._stream)[0]
        if status == driver.CUresult.CUDA_ERROR_NOT_READY:
            return False
        check((status,))
        return True

    def wait(self):
        """Returns when the kernel has ended; raises if it failed."""
        enter()
        check(driver.cuStreamSynchronize(self._stream))
