"""The host's side on GPUs: the device itself, compiling and launching. The contract is in ../README.md."""

import time
import weakref

from cuda.bindings import driver, runtime
from cuda.core import Device as CudaDevice

from ..shape import check_arguments, check_clusters
from .arguments import argument_type
from .arrays import DeviceArray, MappedArray, view
from .compile import Machine, compile_cubin
from .current import adopt, enter
from .errors import check
from .heap import Heap
from .launch import Compiled, Launch
from .prepared import Prepared, configuration
from .replay import Replay
from .words import WARP_SIZE

__all__ = ["Compiled", "Device", "DeviceArray", "Heap", "Launch", "MappedArray", "Prepared", "view"]

MAX_BLOCK = 1024


class Device:
    """One process's GPU, chosen by its rank on the node."""

    warp_size = WARP_SIZE

    def __init__(self, local_rank=0):
        check(driver.cuInit(0))
        self.cuda = CudaDevice(local_rank)
        self.cuda.set_current()
        adopt()
        properties = self.cuda.properties
        self.name = self.cuda.name
        self.multiprocessors = properties.multiprocessor_count
        self.shared_bytes = properties.max_shared_memory_per_block_optin
        capability = self.cuda.compute_capability
        self.ordinal = self.cuda.device_id
        self.machine = Machine((capability[0], capability[1]), local_rank)
        self._stream = check(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
        self.stream = int(self._stream)

    @staticmethod
    def count():
        """GPUs that this process can see."""
        check(driver.cuInit(0))
        return check(driver.cuDeviceGetCount())

    def memory(self):
        """(free, total) bytes of device memory."""
        enter()
        return tuple(check(driver.cuMemGetInfo()))

    def array(self, shape, dtype):
        enter()
        array = DeviceArray(0, shape, dtype)
        array.address = int(check(driver.cuMemAlloc(max(16, array.nbytes))))
        array._owner = weakref.finalize(array, driver.cuMemFree, array.address)
        check(driver.cuMemsetD8(array.address, 0, max(16, array.nbytes)))
        check(driver.cuStreamSynchronize(0))  # the host does not wait for a memset, nor does a kernel
        return array

    def table(self, values):
        return tuple(map(int, values))  # with the kernel's parameters, in constant memory

    def mapped(self, shape, dtype):
        enter()
        return MappedArray(shape, dtype)

    def compile(self, kernel, args, block=MAX_BLOCK):
        began = time.perf_counter()
        cubin = compile_cubin(kernel, tuple(argument_type(value) for value in args), block, self.machine)
        enter()
        return Compiled(kernel, cubin, time.perf_counter() - began)

    def prepare(self, compiled, grid, block, args, shared_bytes=0, warp=None, together=True, early=False, cluster=None):
        """A launch of `compiled` on grid x block threads, to be started; `warp` is for the emulator, a GPU's is 32."""
        check_clusters(grid, cluster)
        check_arguments(compiled.kernel, args)
        enter()
        compiled.allow_shared(shared_bytes)
        config = configuration(grid, block, shared_bytes, together, early, cluster)
        return Prepared(compiled, config, args, self._stream)

    def launch(self, compiled, grid, block, args, stream=None, **options):
        """Prepares a launch and starts it once."""
        return self.prepare(compiled, grid, block, args, **options).start(stream)

    def most_clusters(self, compiled, cluster, block):
        """How many clusters of so many blocks can run at once, a block on a multiprocessor.

        Fewer than the multiprocessors would make: a cluster's lie in one part of the GPU, and parts differ.
        """
        if cluster == 1:
            return self.multiprocessors
        enter()
        compiled.allow_shared(self.shared_bytes)
        config = configuration(cluster, block, self.shared_bytes, False, False, cluster)
        return check(driver.cuOccupancyMaxActiveClusters(compiled.function, config))

    def replay(self, call, times):
        """What `call()` starts on the device's own stream, so many times over, as one CUDA graph: a `Replay`."""
        enter()
        return Replay(self._stream, call, times)

    def capturing(self, stream=None):
        """Whether a stream, a handle (int; None: the device's own), is being captured into a CUDA graph."""
        enter()
        status, state = driver.cuStreamIsCapturing(self._stream if stream is None else driver.CUstream(stream))
        if status == driver.CUresult.CUDA_ERROR_STREAM_CAPTURE_IMPLICIT:  # the default stream, beside one that is
            return True
        return check((status, state)) != driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE

    def synchronize(self, stream=None):
        """Returns when all that was started on a stream has ended; raises if it failed."""
        enter()
        check(driver.cuStreamSynchronize(self._stream if stream is None else driver.CUstream(stream)))

    def finish(self):
        """Returns when all that was started on this device, on whatever stream, has ended."""
        enter()
        check(driver.cuCtxSynchronize())

    def locate(self, address):
        """The ordinal of the GPU whose memory this is; None where CUDA knows of none."""
        status, found = runtime.cudaPointerGetAttributes(address)  # some versions' driver bindings always say 0
        known = status == runtime.cudaError_t.cudaSuccess and found.device >= 0
        return found.device if known else None
