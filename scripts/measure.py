"""How long things take: persistent kernels by their own stamps, what the host starts by graphs that are replayed."""

import time

import numpy as np
from options import MOST_THREADS
from pace import Pace

RUNS = {"gpu": 2, "emulator": 1}  # of a replay, each time that it is timed


class Kernels:
    """Times persistent kernels that stamp their parts (pace.py)."""

    def __init__(self, pe, options):
        self._pe, self._compiled, self._iters = pe, {}, options.iters
        self._untimed = -(-options.warmup_iters // options.iters)
        self._parts = self._untimed + options.repeats

    @property
    def rounds(self):
        """Of one launch in all."""
        return self._parts * self._iters

    def time(self, kernel, grid, block, args, check, warp=1, shared_bytes=0, cluster=None, pes=None):
        """Microseconds of a round, for each timed part (float64 [repeats]): of the last block, on the slowest PE.

        args: the kernel's, with `Pace` in the place of its own. check(): raises if a wait of it ran out. warp: the
        emulator's. cluster: blocks of one. pes: how many PEs run it (None: all). Collective over all.
        """
        if pes is not None and self._pe.rank >= pes:
            self._pe.barrier()
            return _slowest(self._pe, np.zeros(self._parts - self._untimed))
        device = self._pe.device
        compiled, args, stamps = self._compile(kernel, args, grid)
        self._pe.barrier()  # all have compiled it
        options = dict(shared_bytes=shared_bytes, warp=warp, cluster=cluster)
        launch = device.launch(compiled, grid, block, args, **options)
        while not launch.done():
            self._pe.watchdog.check()
            time.sleep(0.0002)
        launch.wait()
        check()
        ended = stamps.numpy().reshape(grid, -1).max(0)
        return _slowest(self._pe, np.diff(ended)[self._untimed :] / self._iters / 1e3)

    def most_clusters(self, kernel, args, cluster, block):
        """How many clusters of so many blocks this PE's device can run of the kernel at once, one for each core."""
        compiled, _, _ = self._compile(kernel, args, 1)
        return self._pe.device.most_clusters(compiled, cluster, block)

    def _compile(self, kernel, args, grid):
        """(the machine code, the arguments with a `Pace`, its stamps)."""
        stamps = self._pe.device.array(grid * (self._parts + 1), np.int64)
        args = [Pace(self._parts, self._iters, stamps) if arg is Pace else arg for arg in args]
        key = (kernel, *map(_kind, args))
        if key not in self._compiled:
            self._compiled[key] = self._pe.device.compile(kernel, args, block=MOST_THREADS)
        return self._compiled[key], args, stamps


def _kind(value):
    """Equal for arguments that one machine code takes."""
    if isinstance(value, tuple):
        return tuple(map(_kind, value))
    if hasattr(value, "dtype"):
        return str(value.dtype), len(value.shape)
    return type(value) if isinstance(value, (int, float)) else value


def time_calls(pe, replay, options):
    """Microseconds of a call on the slowest PE, for each of `options.launches` graphs of `options.iters` calls.

    The PEs meet before each. What is timed is the second of two runs without a pause (float64 [launches]). Collective.
    """
    for _ in range(-(-options.warmup_iters // options.iters)):
        replay.seconds()
    seconds = []
    for _ in range(options.launches):
        pe.barrier()
        seconds.append(replay.seconds())
    return _slowest(pe, np.array(seconds) / options.iters * 1e6)


def _slowest(pe, times):
    """Of each part, the time of the PE that took longest."""
    return np.max(pe.comm.allgather(times), axis=0)
