"""Where shmemtp keeps what it made on this machine: compiled kernels, and measured tables."""

import contextlib
import gc
import logging
import os
from pathlib import Path

__all__ = ["cache_folder", "log_compiling", "without_collecting"]


def cache_folder() -> Path:
    """`SHMEMTP_CACHE_DIR`, or shmemtp under the user's cache directory."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SHMEMTP_CACHE_DIR") or Path(home) / "shmemtp")


def log_compiling(kernel: str, kept: bool = True):
    """Says that a kernel is about to be compiled. kept: in the cache."""
    later = f"; later starts read it from {cache_folder()}" if kept else ""
    logging.getLogger("shmemtp").info("compiling %s, which may take minutes%s", kernel, later)


@contextlib.contextmanager
def without_collecting():
    """Compiling makes a great many objects that stay: looking for garbage among them takes a tenth of its time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
