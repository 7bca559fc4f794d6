"""Compiled kernels on disk, under a name made of everything that they were compiled from."""

import contextlib
import fcntl
import inspect
from pathlib import Path

import llvmlite
import numba
from numba.core import caching

from shmemtp.cache import cache_folder

from ..sources import source_digest


class _Locator(caching._CacheLocator):
    def __init__(self, function):
        self._function = function
        self._py_file = inspect.getfile(function)  # Numba names it in a warning
        checked = f"indices checked: {bool(numba.config.BOUNDSCHECK)}"  # NUMBA_BOUNDSCHECK
        made_by = numba.__version__, llvmlite.__version__, checked
        self._path = cache_folder() / "emulator" / source_digest(function, *made_by)

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

    def holds(self, signature, target):
        """Whether a process has stored this signature's code. A file that is there is whole: Numba renames it so."""
        file, key = self._cache_file, self._index_key(signature, target.codegen())
        name = file._load_index().get(key)
        return name is not None and Path(file._data_path(name)).exists()

    @contextlib.contextmanager
    def alone(self):
        """Lets one process compile while the others wait for what it stores."""
        with open(Path(self.cache_path) / f"{self._impl.filename_base}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
