"""A kernel on OS threads: compiling it ahead, starting its blocks, waiting for them."""

import atexit
import contextlib
import dataclasses
import logging
import threading
import time
import weakref
from collections.abc import Callable

import numpy as np
from numba import typeof
from numba.core.caching import NullCache

from shmemtp.cache import log_compiling, without_collecting
from shmemtp.errors import ShmemtpError

from ..shape import check_arguments, check_clusters
from . import context
from .buffers import LINE, Array, aligned
from .cache import KernelCache

log = logging.getLogger("shmemtp")
MOST_THREADS = 1024  # of a block, on GPUs


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A kernel's machine code for one signature.

    Attributes
    ----------
    seconds : float
        How long it took to compile, to wait for another process that did, or to read the disk cache.
    cached : bool
        Whether it was there before it was asked for: compiled in this process, or on disk.
    """

    kernel: Callable
    signature: tuple
    entry: Callable
    seconds: float
    cached: bool

    @property
    def name(self):
        return self.kernel.py_func.__name__

    def check(self, args):
        """Raises if these are not arguments of the types that this was compiled for."""
        check_arguments(self.kernel, args)
        types = tuple(typeof(value) for value in args)
        if types != self.signature:
            raise ShmemtpError(f"{self.name} was compiled for {self.signature}, not for {types}")


def arguments(args):
    """What Numba takes for what the contract's callers pass."""
    return tuple(_argument(value) for value in args)


def _argument(value):
    if isinstance(value, tuple):
        fields = map(_argument, value)
        return tuple(fields) if type(value) is tuple else type(value)(*fields)
    if isinstance(value, Array) and value.dtype == np.float16:
        raise ShmemtpError("kernels of the emulator take float16 arrays as uint16, their bits")
    return value.array if isinstance(value, Array) else value


def _disk_cache(kernel):
    """The kernel's cache on disk, or None where there can be none."""
    if isinstance(kernel._cache, NullCache):
        try:
            kernel._cache = KernelCache(kernel.py_func)
        except OSError as error:
            log.warning("compiled kernels are not cached: %s", error)
            return None
    return kernel._cache


def _compile(kernel, signature):
    """Compiles or reads the disk cache; returns whether it was there when this began."""
    cache = _disk_cache(kernel)
    found = cache is not None and cache.holds(signature, kernel.targetctx)
    if not found:
        log_compiling(kernel.py_func.__name__, cache is not None)
    with contextlib.nullcontext() if found or cache is None else cache.alone(), without_collecting():
        misses = sum(kernel.stats.cache_misses.values())
        kernel.compile(signature)
    return found and sum(kernel.stats.cache_misses.values()) == misses


def compile_kernel(kernel, args):
    """Compiles `kernel` for these arguments, or reads the disk cache; returns a `Compiled`."""
    check_arguments(kernel, args)
    signature = tuple(typeof(value) for value in arguments(args))
    began = time.perf_counter()
    cached = signature in kernel.overloads or _compile(kernel, signature)
    entry = kernel.overloads[signature].entry_point
    return Compiled(kernel, signature, entry, time.perf_counter() - began, cached)


_launches: "weakref.WeakSet[Launch]" = weakref.WeakSet()
_nobody = aligned(1, np.int64)
_last_early: dict = {}  # stream -> how many threads of its last launch that was early have not left it


class Launch:
    """A kernel that runs: `done()` looks, `wait()` waits and raises what the kernel raised.

    `wait_for_prior_kernel` waits for the launch before in the same stream, where both are `early`.
    """

    def __init__(self, compiled, grid, block, args, shared_bytes, warp, cluster, device, early, stream):
        self._compiled, self._args, self._distances, self._errors = compiled, args, device.distances, []
        self._pe = device.local_rank  # all are on one host
        self._failed, self._running, self._counting = aligned(1, np.int64), aligned(1, np.int64), threading.Lock()
        self._running[0] = grid * block
        self._prior = _last_early.get(stream, _nobody) if early else _nobody
        if early:
            _last_early[stream] = self._running
        self._memory = _BlockMemory(grid, block, warp, cluster, shared_bytes)
        self._records = self._memory.records(self._failed, device.distances, self._prior, device.heap)
        self._threads = [threading.Thread(target=self._run, args=(row,), daemon=True) for row in self._records]
        _launches.add(self)
        for thread in self._threads:
            thread.start()

    def _run(self, record):
        try:
            context.bind(record.ctypes.data)
            self._compiled.entry(*self._args)
        except BaseException as error:
            block, thread = record[[context.BLOCK, context.THREAD]]
            where = f"(in {self._compiled.name}, PE {self._pe}, block {block}, thread {thread})"
            error.args = (f"{error} {where}".lstrip(),)
            self._errors.append(error)
            self._failed[0] = 1
        finally:
            with self._counting:
                self._running[0] -= 1
                self._memory.leave(*record[[context.BLOCK, context.THREAD]])

    def done(self):
        """Whether every thread has left the kernel. Does not wait."""
        return not any(thread.is_alive() for thread in self._threads)

    def wait(self):
        """Waits for every thread; raises what the first thread that failed raised."""
        self.join()
        if self._errors:
            raise min(self._errors, key=lambda error: isinstance(error, context.KernelAborted))

    def join(self):
        """Waits for every thread, and leaves what they raised to `wait`."""
        for thread in self._threads:
            thread.join()

    def abort(self, seconds=2.0):
        """Ends the kernel: each thread leaves at its next barrier or pause, for which this waits so long at most."""
        self._failed[0] = 1
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))


@atexit.register
def abort_all():
    """Ends every kernel that still runs, before the memory that it uses goes away."""
    for launch in list(_launches):
        launch.abort()


def wait_all():
    """Returns when every kernel has ended; raises nothing."""
    for launch in list(_launches):
        launch.join()


class _BlockMemory:
    """What blocks own: shared memory, two scratch rows per warp, barriers, and the record of each thread."""

    def __init__(self, grid, block, warp, cluster, shared_bytes):
        self.grid, self.block, self.warp, self.cluster = grid, block, warp, cluster
        self.warps = block // warp
        self.shared_bytes = shared_bytes
        self.shared = aligned((grid, -(-max(shared_bytes, 1) // LINE) * LINE), np.uint8)
        self.shared[:] = 0xFF  # not initialised, says the contract: floats read as NaN, which does not go unseen
        self.scratch = aligned((grid, self.warps, 2 * 32), np.uint64)
        self.block_barriers = aligned((grid, LINE // 8), np.int64)
        self.warp_barriers = aligned((grid, self.warps, LINE // 8), np.int64)

    def leave(self, block, thread):
        """A thread is no longer in the kernel: `meet` tells those that wait for it."""
        self.block_barriers[block, context.LEFT] += 1
        self.warp_barriers[block, thread // self.warp, context.LEFT] += 1

    def records(self, failed, distances, prior, heap):
        """int64[threads, FIELDS]: what each thread binds before it calls the kernel."""
        records = aligned((self.grid * self.block, context.FIELDS), np.int64)
        for row, record in enumerate(records):
            block, thread = divmod(row, self.block)
            warp = thread // self.warp
            record[:] = (
                *(thread, block, self.block, self.grid, self.warp, self.cluster, len(distances)),
                *(self.shared_bytes, self.shared.strides[0]),
                *(row.ctypes.data for row in (self.shared[block], self.scratch[block, warp])),
                *(row.ctypes.data for row in (self.block_barriers[block], self.warp_barriers[block, warp])),
                *(failed.ctypes.data, distances.ctypes.data, prior.ctypes.data),
                *heap,
            )
        return records


def check_shape(grid, block, warp, cluster, shared_bytes, most_shared):
    """Raises if no launch can have this shape."""
    if grid < 1 or not 1 <= block <= MOST_THREADS or not 1 <= warp <= 32 or block % warp:
        rule = f"a block has 1 to {MOST_THREADS} threads, a warp 1 to 32, and it divides the block"
        raise ShmemtpError(f"no such launch: grid {grid}, block {block}, warp {warp} ({rule})")
    check_clusters(grid, cluster)
    if shared_bytes > most_shared:
        raise ShmemtpError(f"a block has at most {most_shared} bytes of shared memory; this launch asks {shared_bytes}")
