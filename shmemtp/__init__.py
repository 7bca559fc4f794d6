"""Tensor-parallel LLM inference in Python whose communication is started by the GPUs themselves.

The public names load on first use: `import shmemtp` needs neither MPI nor Numba nor CUDA, and the backend can still be
chosen by `shmemtp.init(backend=...)` afterwards.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .errors import ShmemtpError
    from .heap import SymmetricArray
    from .llm import LLM
    from .loop import DecodeLoop
    from .runtime import PE, init

__all__ = ["LLM", "PE", "DecodeLoop", "ShmemtpError", "SymmetricArray", "init"]

_HOMES = {
    "init": "runtime",
    "PE": "runtime",
    "SymmetricArray": "heap",
    "LLM": "llm",
    "DecodeLoop": "loop",
    "ShmemtpError": "errors",
}


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module 'shmemtp' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})
