"""How long things take: persistent kernels by their own stamps, what the host starts by graphs that are replayed."""

import time

import numpy as np
from pace import Pace

MOST_THREADS = 512  # of a block: one machine code serves every launch, with 128 registers a thread
RUNS = {"gpu": 2, "emulator": 1}  # of a replay, each time that it is timed


class Kernels:
    """Times persistent kernels that stamp their parts (pace.py)."""

    def __init__(self, pe, options):
        self._pe, self._compiled, self._iters = pe, {}, options.iters
        self._untimed = -(-options.warmup_iters // options.iters)
        self._parts = self._untimed + options.repeats
        self.none = np.zeros(options.repeats)  # for a PE that only looks on

    @property
    def rounds(self):
        """Of one launch in all."""
        return self._parts * self._iters

    def time(self, kernel, grid, block, args, check, warp=1, shared_bytes=0):
        """Microseconds of a round, for each timed part (float64 [repeats]); a part ends when its last block has.

        args: the kernel's, with `Pace` in the place of its own. check(): raises if a wait of it ran out. warp: the
        emulator's. The PEs meet before, at their caller's.
        """
        device = self._pe.device
        stamps = device.array(grid * (self._parts + 1), np.int64)
        args = [Pace(self._parts, self._iters, stamps) if arg is Pace else arg for arg in args]
        key = (kernel, *map(_kind, args))
        if key not in self._compiled:
            self._compiled[key] = device.compile(kernel, args, block=MOST_THREADS)
        launch = device.launch(self._compiled[key], grid, block, args, shared_bytes=shared_bytes, warp=warp)
        while not launch.done():
            self._pe.watchdog.check()
            time.sleep(0.0002)
        launch.wait()
        check()
        ended = stamps.numpy().reshape(grid, -1).max(0)
        return np.diff(ended)[self._untimed :] / self._iters / 1e3


def _kind(value):
    """Equal for arguments that one machine code takes."""
    if isinstance(value, tuple):
        return tuple(map(_kind, value))
    if hasattr(value, "dtype"):
        return str(value.dtype), len(value.shape)
    return type(value) if isinstance(value, (int, float)) else value


def time_calls(pe, replay, options):
    """Microseconds of a call, for each of `options.launches` runs of a graph of `options.iters` calls.

    The PEs meet before each. What is timed is the second of two runs without a pause (float64 [launches]).
    """
    for _ in range(-(-options.warmup_iters // options.iters)):
        replay.seconds()
    seconds = []
    for _ in range(options.launches):
        pe.barrier()
        seconds.append(replay.seconds())
    return np.array(seconds) / options.iters * 1e6


def slowest(pe, times):
    """Of each part, the time of the PE that took longest. Collective."""
    return np.max(pe.comm.allgather(times), axis=0)
