"""The CUDA context that this process works in, which the driver wants to find as the calling thread's current one.

Other libraries leave theirs there: JAX that of GPU 0, whichever this PE's GPU is; a new thread has none.
"""

from cuda.bindings import driver

from .errors import check

__all__ = ["adopt", "enter"]

_own = None


def adopt():
    """Takes the thread's current context for this process's own: one process has one GPU."""
    global _own
    _own = check(driver.cuCtxGetCurrent())


def enter():
    """Makes it current. Whatever allocates, copies, loads, starts or waits calls this first."""
    check(driver.cuCtxSetCurrent(_own))
