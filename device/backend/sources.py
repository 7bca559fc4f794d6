"""Everything that a kernel is compiled from, as one digest: the name under which a backend keeps its machine code."""

import functools
import hashlib
import inspect
from pathlib import Path
from types import ModuleType

import numpy as np

DEVICE_SOURCES = Path(__file__).resolve().parents[1]


@functools.cache
def _device_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(DEVICE_SOURCES.rglob("*.py")):
        digest.update(str(path.relative_to(DEVICE_SOURCES)).encode() + path.read_bytes())
    return digest.hexdigest()


def _named(function):
    """The (name, value) pairs of the globals, module attributes and closure cells that a function's code names."""
    names, scope = function.__code__.co_names, function.__globals__
    found = [(name, scope[name]) for name in names if name in scope]
    modules = [value for _, value in found if isinstance(value, ModuleType)]
    found += [(name, getattr(module, name)) for module in modules for name in names if hasattr(module, name)]
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return found + [(name, cell.cell_contents) for name, cell in cells]


def source_digest(kernel, *versions: str) -> str:
    """A digest of `versions` (the compiler's), the device tree, every file that holds a function which the Python
    function `kernel` reaches, and the plain globals and types that these functions name.
    """
    parts, seen, waiting = {_device_digest(), *versions}, set(), [kernel]
    while waiting:
        function = waiting.pop()
        if function in seen:
            continue
        seen.add(function)
        path = Path(inspect.getfile(function))
        code = function.__code__
        parts.add(path.read_text() if path.exists() else f"{code.co_code!r} {code.co_consts!r}")
        for name, value in _named(function):
            if hasattr(value, "py_func"):  # what Numba makes of a function
                waiting.append(value.py_func)
            elif isinstance(value, np.ndarray):
                parts.add(f"{name} = {value.dtype} {value.tolist()}")
            elif isinstance(value, (bool, int, float, str, tuple)) or _is_type(value):
                parts.add(f"{name} = {value!r}")
    return hashlib.sha256("\0".join(sorted(parts)).encode()).hexdigest()[:24]


def _is_type(value) -> bool:
    """Whether it is one of Numba's types, of which each backend has its own class."""
    return any(base.__name__ == "Type" for base in type(value).__mro__)
