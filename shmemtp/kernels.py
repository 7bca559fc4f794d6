"""Kernels of one's own: the limit of their waits, and a way to run one."""

import time
from typing import TYPE_CHECKING

import numpy as np

from .errors import InputError
from .watchdog import raise_if_expired

if TYPE_CHECKING:
    from .runtime import PE

__all__ = ["Kernels", "Watch", "wait_for"]

QUICK_LOOKS = 50  # whether a kernel has ended, one after another: most end soon
PATIENCE_S = 0.0002  # between two later looks: the emulator's threads need the cores


class Watch:
    """The limit of a kernel's waits (SHMEMTP_TIMEOUT_S), and its report if one ran out. Made by `PE.watch`.

    A kernel takes it as an argument, of which `Limits(watch, rank)` makes what waits take. Good for one failure: after
    it, every wait with this watch ends at once.
    """

    def __init__(self, pe: "PE", team=None):
        from .device import watch

        self._team = team
        state, report = pe.device.array(watch.STATE_WORDS, np.int64), pe.device.mapped(watch.REPORT_WORDS, np.int64)
        for array, words in ((state, watch.STATE_WORDS), (report, watch.REPORT_WORDS)):
            given = np.zeros(words, np.int64)
            given[watch.LIMIT] = int(pe.timeout_s * 1e9)
            array.fill(given)
        self.argument = watch.Watch(state, report)

    def check(self, kernel: str):
        """Raises TimeoutError_ if a wait of the kernel ran out. Its memory may be looked at while the kernel runs."""
        raise_if_expired(self.argument.report.host, self._team, kernel)


class Kernels:
    """Compiles and runs kernels on a PE's device; each is compiled once for the types of its arguments."""

    def __init__(self, pe: "PE"):
        self._pe = pe
        self._compiled: dict = {}

    def run(self, kernel, grid: int, block: int, args, **options):
        """See `PE.run`."""
        pe, values = self._pe, [_value(arg) for arg in args]
        for arg in args:
            if getattr(arg, "lanes", grid) < grid:
                raise InputError(f"{grid} blocks, and a communicator of {arg.lanes} lanes: it has one for each block")
        key = (kernel, block, *map(_kind, values))
        if key not in self._compiled:
            self._compiled[key] = pe.device.compile(kernel, values, block=block)
        launch = pe.device.launch(self._compiled[key], grid, block, values, **options)
        wait_for(launch, pe.watchdog)
        for arg in args:
            if hasattr(arg, "check"):  # a Watch, or a communicator, which has one
                arg.check(getattr(kernel, "__name__", "the kernel"))


def wait_for(launch, watchdog):
    """Returns when a kernel has ended; raises PeerLost if a peer's process ends meanwhile."""
    looks = 0
    while not launch.done():
        looks += 1
        if looks > QUICK_LOOKS:
            watchdog.check()
            time.sleep(PATIENCE_S)
    launch.wait()


def _value(arg):
    """What the backend takes for an argument of `PE.run`."""
    if isinstance(arg, tuple):
        fields = map(_value, arg)
        return tuple(fields) if type(arg) is tuple else type(arg)(*fields)
    if isinstance(arg, (np.ndarray, list, dict, str)):
        what = f"{type(arg).__name__} is no argument of a kernel"
        raise InputError(f"{what}: pe.array, pe.device.array and pe.device.table make arrays that are")
    return np.float32(arg) if isinstance(arg, float) else getattr(arg, "argument", arg)


def _kind(value):
    """Equal for values that one compiled kernel takes."""
    if isinstance(value, tuple):
        return (type(value), *map(_kind, value))
    if isinstance(value, (bool, int)):
        return type(value)
    return (str(value.dtype), len(value.shape)) if hasattr(value, "dtype") else value
