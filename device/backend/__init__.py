# ruff: noqa: F403 (the contract's names, whichever side they come from)
"""Chooses, once and before any kernel is compiled, what kernels run on (see README.md, the contract)."""

import os

from shmemtp.errors import ShmemtpError


def _choice():
    name = os.environ.get("SHMEMTP_BACKEND", "auto")
    if name not in ("auto", "gpu", "emulator"):
        raise ShmemtpError(f"SHMEMTP_BACKEND is {name!r}; it must be gpu, emulator or auto")
    if name != "auto":
        return name
    return "gpu" if _visible_gpus() else "emulator"


def _visible_gpus():
    try:
        from cuda.bindings import driver

        (status,) = driver.cuInit(0)
        if status != driver.CUresult.CUDA_SUCCESS:
            return 0
        status, count = driver.cuDeviceGetCount()
    except (ImportError, RuntimeError):  # no bindings, or no driver library
        return 0
    return count if status == driver.CUresult.CUDA_SUCCESS else 0


NAME = _choice()

if NAME == "gpu":
    try:
        import numba_cuda  # noqa: F401 (numba has a numba.cuda of its own, too old for this)
    except ImportError as error:
        raise ShmemtpError(f"the gpu backend needs numba-cuda ({error}): pip install '.[gpu]'") from None
    from .gpu.attention import *
    from .gpu.barriers import *
    from .gpu.bits import *
    from .gpu.checks import *
    from .gpu.clusters import *
    from .gpu.host import *
    from .gpu.lines import *
    from .gpu.matrix import *
    from .gpu.memory import *
    from .gpu.symmetric import *
    from .gpu.vectors import *
    from .gpu.words import *
else:
    from .emulator.attention import *
    from .emulator.bits import *
    from .emulator.checks import *
    from .emulator.clusters import *
    from .emulator.host import *
    from .emulator.lines import *
    from .emulator.matrix import *
    from .emulator.meetings import *
    from .emulator.memory import *
    from .emulator.symmetric import *
    from .emulator.vectors import *
    from .emulator.words import *
