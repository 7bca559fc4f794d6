"""The log: standard error, so that standard output stays the program's answer."""

import logging
import sys

__all__ = ["LOG", "configure"]

LOG = logging.getLogger("shmemtp")


def configure(rank: int, verbose: bool = False):
    """Sends the log to standard error: rank 0's information (all if `verbose`), other PEs' warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("shmemtp: %(message)s" if rank == 0 else f"shmemtp: PE {rank}: %(message)s"))
    LOG.handlers[:] = [handler]
    LOG.propagate = False
    LOG.setLevel(logging.DEBUG if verbose else logging.INFO if rank == 0 else logging.WARNING)
