"""A decode kernel's block: `plan.block` threads that multiply, the workers, and behind them one warp, the feeder.

The feeder keeps the weight stream going (feeder.py) and takes no part in anything else: what other modules call a
block's threads are its workers. A prompt's passes have no feeder: there all threads are workers.
"""

from .backend import function, sync_threads, warp_index


@function
def is_feeder(plan):
    """Whether this thread is one of the feeder's (thread)."""
    return warp_index() == plan.warps


@function
def sync_workers(plan):
    """A barrier of the workers; their memory is ordered (all workers)."""
    sync_threads(plan.block)
