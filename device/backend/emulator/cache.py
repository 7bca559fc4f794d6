"""Compiled kernels on disk, under a name made of everything that they were compiled from."""

import functools
import hashlib
import inspect
import os
import types as python_types
from pathlib import Path

import llvmlite
import numba
import numpy as np
from numba.core import caching
from numba.core.dispatcher import Dispatcher

DEVICE_SOURCES = Path(__file__).resolve().parents[2]


def cache_root():
    """SHMEMTP_CACHE_DIR, else NUMBA_CACHE_DIR, else the user's cache folder."""
    own = os.environ.get("SHMEMTP_CACHE_DIR")
    if own:
        return Path(own)
    user = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(user) / "shmemtp"


@functools.cache
def _device_digest():
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for path in sorted(DEVICE_SOURCES.rglob("*.py")):
        digest.update(str(path.relative_to(DEVICE_SOURCES)).encode() + path.read_bytes())
    return digest.hexdigest()


def _named(function):
    """The (name, value) pairs of the globals, module attributes and closure cells that a function's code names."""
    names, scope = function.__code__.co_names, function.__globals__
    found = [(name, scope[name]) for name in names if name in scope]
    modules = [value for _, value in found if isinstance(value, python_types.ModuleType)]
    found += [(name, getattr(module, name)) for module in modules for name in names if hasattr(module, name)]
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return found + [(name, cell.cell_contents) for name, cell in cells]


def _digest(kernel):
    """A digest of the device tree, of every file that holds a function the kernel reaches, and of plain globals."""
    parts, seen, waiting = {_device_digest()}, set(), [kernel]
    while waiting:
        function = waiting.pop()
        if function in seen:
            continue
        seen.add(function)
        path = Path(inspect.getfile(function))
        code = function.__code__
        parts.add(path.read_text() if path.exists() else f"{code.co_code!r} {code.co_consts!r}")
        for name, value in _named(function):
            if isinstance(value, Dispatcher):
                waiting.append(value.py_func)
            elif isinstance(value, np.ndarray):
                parts.add(f"{name} = {value.dtype} {value.tolist()}")
            elif isinstance(value, (bool, int, float, str, tuple, numba.types.Type)):
                parts.add(f"{name} = {value!r}")
    return hashlib.sha256("\0".join(sorted(parts)).encode()).hexdigest()[:24]


class _Locator(caching._CacheLocator):
    def __init__(self, function):
        self._function = function
        self._py_file = inspect.getfile(function)  # Numba names it in a warning
        self._path = cache_root() / "emulator" / _digest(function)

    def get_cache_path(self):
        return str(self._path)

    def get_source_stamp(self):
        return 0  # the path says it all

    def get_disambiguator(self):
        return str(self._function.__code__.co_firstlineno)

    @classmethod
    def from_function(cls, function, file):
        locator = cls(function)
        locator.ensure_cache_path()
        return locator


class _Impl(caching.CompileResultCacheImpl):
    _locator_classes = [_Locator]


class KernelCache(caching.FunctionCache):
    """Numba's on-disk cache of one kernel, in the project's own folder."""

    _impl_class = _Impl

    @property
    def lock_path(self):
        """The file that processes lock while one of them compiles."""
        return Path(self.cache_path) / f"{self._impl.filename_base}.lock"
