"""Kernels loaded and under way."""

from cuda.bindings import driver

from .errors import check
from .heap import NVSHMEM_STATE, attach_library, detach_library

__all__ = ["Compiled", "Launch"]


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
