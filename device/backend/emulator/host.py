"""The host's side of the contract, for the host's threads (see ../README.md)."""

import os
from pathlib import Path

import numpy as np

from .buffers import Array, Mapped, aligned, view
from .heap import Heap
from .launch import Compiled, Launch, arguments, check_shape, compile_kernel, wait_all
from .prepared import Prepared
from .replay import Replay

__all__ = ["Compiled", "Device", "Heap", "Launch", "Prepared", "view"]


class Device:
    """The host's cores as one PE's device.

    Attributes
    ----------
    name : str
    multiprocessors : int
        Cores this process may run on.
    shared_bytes : int
        The most shared memory a block may have, in bytes: an H200's.
    warp_size : int
        Lanes of a warp unless a launch says otherwise.
    ordinal, stream : None
        A GPU's number and the handle of its own stream, of which there are none here.
    """

    ordinal = stream = None

    def __init__(self, local_rank=0):
        self.local_rank = local_rank
        self.multiprocessors = len(os.sched_getaffinity(0))
        self.name = f"emulator, {self.multiprocessors} cores"
        self.shared_bytes = 227 * 1024
        self.warp_size = 1
        self.distances, self.heap = np.zeros(1, np.int64), (0, 0)  # and (address, bytes) of the heap, once there is one

    def memory(self):
        """(free, total) bytes of the host."""
        lines = Path("/proc/meminfo").read_text().splitlines()
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        return kilobytes["MemAvailable"] * 1024, kilobytes["MemTotal"] * 1024

    def array(self, shape, dtype):
        """Zeroed device memory."""
        return Array(aligned(shape, dtype))

    def table(self, values):
        """A kernel argument of int64 numbers; an array, so that tables of all lengths share a compiled kernel."""
        array = self.array(len(values), np.int64)
        array.fill(np.array(values, np.int64))
        return array

    def mapped(self, shape, dtype):
        """Zeroed memory that the kernel and the host see at once."""
        return Mapped(aligned(shape, dtype))

    def compile(self, kernel, args, block=None):
        """Compiles for these arguments, or reads the disk cache; returns a `Compiled`."""
        return compile_kernel(kernel, args)

    def prepare(self, kernel, grid, block, args, shared_bytes=0, warp=None, together=True, early=False, cluster=None):
        """A launch of a kernel or a `Compiled` on grid x block threads, all at once, to be started."""
        warp = self.warp_size if warp is None else warp
        check_shape(grid, block, warp, cluster, shared_bytes, self.shared_bytes)
        compiled = kernel if isinstance(kernel, Compiled) else compile_kernel(kernel, args)
        compiled.check(arguments(args))
        return Prepared(compiled, grid, block, args, shared_bytes, warp, cluster or 1, early, self)

    def launch(self, kernel, grid, block, args, stream=None, **options):
        """Prepares a launch and starts it once; returns a `Launch`."""
        return self.prepare(kernel, grid, block, args, **options).start(stream)

    def most_clusters(self, compiled, cluster, block):
        """How many clusters of so many blocks the cores can run at once, a block on each; one at least."""
        return max(1, self.multiprocessors // cluster)

    def replay(self, call, times):
        """`call()`, so many times over, to be run and timed: a `Replay`."""
        return Replay(call, times)

    def capturing(self, stream=None):
        """False: the host's threads have no streams to capture."""
        return False

    def synchronize(self, stream=None):
        """Returns when every kernel of this process has ended; what one raised, its `Launch` tells."""
        wait_all()

    def finish(self):
        """`synchronize`: there are no streams."""
        wait_all()

    def locate(self, address):
        """None: all memory is the host's."""
        return None
