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

    def time(self, kernel, grid, block, args, check, warp=1, shared_bytes=0, pes=None):
        """Microseconds of a round, for each timed part (float64 [repeats]): of the last block, on the slowest PE.

        args: the kernel's, with `Pace` in the place of its own. check(): raises if a wait of it ran out. warp: the
        emulator's. pes: how many PEs run it (None: all). Collective over all.
        """
        if pes is not None and self._pe.rank >= pes:
            self._pe.barrier()
            return _slowest(self._pe, np.zeros(self._parts - self._untimed))
        device = self._pe.device
        stamps = device.array(grid * (self._parts + 1), np.int64)
        args = [Pace(self._parts, self._iters, stamps) if arg is Pace else arg for arg in args]
        key = (kernel, *map(_kind, args))
        if key not in self._compiled:
            self._compiled[key] = device.compile(kernel, args, block=MOST_THREADS)
        self._pe.barrier()  # all have compiled it
        launch = device.launch(self._compiled[key], grid, block, args, shared_bytes=shared_bytes, warp=warp)
        while not launch.done():
            self._pe.watchdog.check()
            time.sleep(0.0002)
        launch.wait()
        check()
        ended = stamps.numpy().reshape(grid, -1).max(0)
        return _slowest(self._pe, np.diff(ended)[self._untimed :] / self._iters / 1e3)


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
