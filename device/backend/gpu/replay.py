"""Calls recorded once and run again with no host in between: a CUDA graph, and how long it takes."""

import weakref

from cuda.bindings import driver

from .current import enter
from .errors import check

__all__ = ["Replay"]


class Replay:
    """What `call()` starts on a stream, `times` times over, as one CUDA graph. Made by `Device.replay`."""

    def __init__(self, stream, call, times):
        self._stream = stream
        check(driver.cuStreamBeginCapture(stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
        try:
            for _ in range(times):
                call()
        except BaseException:
            driver.cuStreamEndCapture(stream)
            raise
        graph = check(driver.cuStreamEndCapture(stream))
        self._graph = check(driver.cuGraphInstantiate(graph, 0))
        weakref.finalize(self, driver.cuGraphExecDestroy, self._graph)
        check(driver.cuGraphDestroy(graph))
        flags = driver.CUevent_flags.CU_EVENT_DEFAULT
        self._began, self._ended = (check(driver.cuEventCreate(flags)) for _ in range(2))
        for event in (self._began, self._ended):
            weakref.finalize(self, driver.cuEventDestroy, event)

    def seconds(self):
        """Runs it twice and waits; how long the second run took, by the device's clock.

        The first run hides what starting costs the host, and has PEs that communicate begin together.
        """
        enter()
        check(driver.cuGraphLaunch(self._graph, self._stream))
        check(driver.cuEventRecord(self._began, self._stream))
        check(driver.cuGraphLaunch(self._graph, self._stream))
        check(driver.cuEventRecord(self._ended, self._stream))
        check(driver.cuEventSynchronize(self._ended))
        return check(driver.cuEventElapsedTime(self._began, self._ended)) / 1e3
