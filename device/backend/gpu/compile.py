"""Kernel source to machine code for one architecture, with or without a GPU in this machine, cached on disk."""

import contextlib
import hashlib
import os
import re
import warnings
from dataclasses import dataclass
from functools import partial

import numba_cuda
from cuda.core import Linker, LinkerOptions, ObjectCode
from numba.cuda import compiler, dispatcher, types
from numba.cuda.cpython import slicing
from numba.cuda.cudadrv import nvrtc, nvvm

from shmemtp.cache import cache_folder, log_compiling, without_collecting

from ..shape import check_arguments
from ..sources import source_digest
from .loops import keep_rolled

BLOCKS_A_MULTIPROCESSOR = 1


@dataclass(frozen=True)
class Machine:
    """What compiling needs to know of a GPU: stands in for one where there is none."""

    compute_capability: tuple[int, int] = (9, 0)
    id: int = 0


@dataclass(frozen=True)
class Cubin:
    """Machine code of one kernel, and what the assembler said of it."""

    name: str
    code: bytes
    registers: int
    spill_bytes: int
    stack_bytes: int
    cached: bool = False


def compile_cubin(kernel, signature, block: int, machine=Machine()) -> Cubin:
    """Compiles `kernel` for a tuple of Numba types; `block` threads at most will run it."""
    check_arguments(kernel, signature)
    arch = f"sm_{machine.compute_capability[0]}{machine.compute_capability[1]}"
    what = f"{kernel.__module__}.{kernel.__qualname__}{signature}{block}{arch}"
    sources = source_digest(kernel, numba_cuda.__version__)
    path = cache_folder() / "gpu" / sources / (hashlib.sha256(what.encode()).hexdigest()[:24] + ".cubin")
    if path.exists():
        header, code = path.read_bytes().split(b"\n", 1)
        name, registers, spills, stack = header.decode().split(" ")
        return Cubin(name, code, int(registers), int(spills), int(stack), True)
    log_compiling(kernel.__name__)
    cubin = _compile(kernel, signature, block, machine, arch)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}")  # PEs of one job write the same file at the same time
    header = f"{cubin.name} {cubin.registers} {cubin.spill_bytes} {cubin.stack_bytes}\n".encode()
    scratch.write_bytes(header + cubin.code)
    scratch.replace(path)
    return cubin


def _compile(kernel, signature, block, machine, arch) -> Cubin:
    """Links without NVSHMEM first: a kernel that names it only in branches that its constants rule out needs none."""
    own, *libraries = _front_end(kernel, signature, block, machine)
    try:
        return _link([own], arch)
    except Exception as error:  # cuda.core and nvJitLink raise several types
        if not re.search("undefined|unresolved", f"{error}", re.IGNORECASE):
            raise
    return _link([own, *map(_compiled, libraries)], arch)


def _link(codes, arch) -> Cubin:
    options = LinkerOptions(arch=arch, link_time_optimization=True, verbose=True, ptxas_options=["-v"], no_cache=True)
    linker = Linker(*(ObjectCode.from_ltoir(_bytes_of(code)) for code in codes), options=options)
    code = bytes(linker.link("cubin").code)
    return Cubin(*_read_log(linker.get_info_log(), code))


def _front_end(kernel, signature, block, machine):
    """The kernel's code, then that of the libraries which it names: what of these is source, for `_compiled`."""
    with (
        without_collecting(),
        _instead(dispatcher, "get_current_device", lambda: machine),
        _instead(nvvm, "compile_ir", _compile_rolled),
        _instead(nvrtc, "compile", lambda *args, **options: (partial(_nvrtc_compile, *args, **options), None)),
        _instead(dispatcher.CUDADispatcher, "compile_device", _compile_for_all_literals),
        _instead(slicing, "fix_index", lambda builder, index, size: index),  # indices count from 0: none is negative
    ):
        codes, _ = compiler.compile_all(
            kernel,
            types.void(*signature),
            device=False,
            abi="numba",
            cc=machine.compute_capability,
            output="ltoir",
            launch_bounds=(block, BLOCKS_A_MULTIPROCESSOR),
        )
    return codes


_compile_device = dispatcher.CUDADispatcher.compile_device


def _compile_for_all_literals(function, arguments, return_type=None):
    """One code of a device function serves all literals that it is called with: it is inlined, and they meet there."""
    return _compile_device(function, tuple(types.unliteral(kind) for kind in arguments), return_type)


_nvrtc_compile = nvrtc.compile


def _compiled(library):
    """A library's code; from source by NVRTC, which takes several seconds."""
    if not isinstance(library, partial):
        return library
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "NVRTC log messages")  # deprecations in NVIDIA's own headers
        code, _ = library()
    return code


_nvvm_compile = nvvm.compile_ir


def _compile_rolled(modules, **options):
    return _nvvm_compile([keep_rolled(module) for module in modules], **options)


@contextlib.contextmanager
def _instead(module, name, function):
    """`function` in place of the module's own, for a while: Numba-CUDA has no hook for any of these."""
    own = getattr(module, name)
    setattr(module, name, function)
    try:
        yield
    finally:
        setattr(module, name, own)


def _bytes_of(code) -> bytes:
    data = getattr(code, "data", code)
    return bytes(getattr(data, "code", data))


def _read_log(log: str, code: bytes):
    """The kernel's name, its registers, spilled bytes and stack frame from the assembler's report."""
    name = re.search(r"Compiling entry function '(\S+)'", log)
    registers = re.search(r"Used (\d+) registers", log)
    frame = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    if not (name and registers and frame):
        raise RuntimeError(f"the assembler's report cannot be read: {log!r}")
    return name[1], code, int(registers[1]), int(frame[2]) + int(frame[3]), int(frame[1])
