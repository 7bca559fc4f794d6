"""Where shmemtp keeps what it made on this machine: compiled kernels, and measured tables."""

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """`SHMEMTP_CACHE_DIR`, or shmemtp under the user's cache directory."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SHMEMTP_CACHE_DIR") or Path(home) / "shmemtp")
