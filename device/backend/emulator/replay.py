"""Calls run again and again, and how long they take."""

import time

__all__ = ["Replay"]


class Replay:
    """`call()`, `times` times over; it returns when what it started has ended. Made by `Device.replay`."""

    def __init__(self, call, times):
        self._call, self._times = call, times

    def seconds(self):
        """Runs it, and how long that took by the host's clock."""
        began = time.perf_counter()
        for _ in range(self._times):
            self._call()
        return time.perf_counter() - began
