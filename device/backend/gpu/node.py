"""The GPUs of this node, as the CUDA driver sees them: which are there, who reaches whom, which PE takes which."""

import os
import socket
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from cuda.bindings import driver

from shmemtp.errors import InputError, ShmemtpError

__all__ = ["Gpu", "assign", "driver_version", "pes_per_gpu", "reaches", "take_one", "visible"]


class Gpu(NamedTuple):
    ordinal: int
    name: str
    uuid: str
    nbytes: int
    compute_capability: tuple[int, int]


def _call(function, *args):
    """A driver call's value; ShmemtpError with the driver's word for it."""
    status, *values = getattr(driver, function)(*args)
    if status != driver.CUresult.CUDA_SUCCESS:
        raise ShmemtpError(f"the CUDA driver says {status.name} to {function}")
    return values[0] if values else None


def _attribute(index, name):
    return _call("cuDeviceGetAttribute", getattr(driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}"), index)


def driver_version() -> tuple[int, int]:
    """The newest CUDA version that the driver can run."""
    try:
        _call("cuInit", 0)
        number = _call("cuDriverGetVersion")
    except RuntimeError as error:  # there is no driver library
        raise ShmemtpError(f"no CUDA driver: {str(error).partition(chr(10))[0]}") from error
    return number // 1000, number % 1000 // 10


def visible() -> list[Gpu]:
    """The GPUs that this process may use; none where there is no driver."""
    try:
        driver_version()
    except ShmemtpError:
        return []
    return [_describe(index) for index in range(_call("cuDeviceGetCount"))]


def _describe(index):
    capability = tuple(_attribute(index, f"COMPUTE_CAPABILITY_{part}") for part in ("MAJOR", "MINOR"))
    name = _call("cuDeviceGetName", 128, index).split(b"\0")[0].decode()
    return Gpu(index, name, _call("cuDeviceGetUuid", index).bytes.hex(), _call("cuDeviceTotalMem", index), capability)


def reaches(one: Gpu, other: Gpu) -> tuple[bool, bool]:
    """(P2P access, native atomics over the link, which NVLink has and PCIe has not) from one GPU to another."""
    native = driver.CUdevice_P2PAttribute.CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED
    access = _call("cuDeviceCanAccessPeer", one.ordinal, other.ordinal)
    return bool(access), bool(_call("cuDeviceGetP2PAttribute", native, one.ordinal, other.ordinal))


def pes_per_gpu() -> int:
    """How many PEs may share a GPU (SHMEMTP_PES_PER_GPU, 1 where it is not set)."""
    text = os.environ.get("SHMEMTP_PES_PER_GPU", "1")
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"SHMEMTP_PES_PER_GPU must be a number of PEs, not {text!r}")
    return int(text)


def assign(seen: Sequence[list[str]], most: int = 1) -> list[int] | None:
    """A GPU for each PE of a node, `most` PEs on one: the index in each PE's own list of GPU ids; None if too few.

    PEs that see the same GPUs get them in order of local rank, as long as one is free, then those that fewest have;
    PEs whose launcher bound them to one GPU each get that.
    """
    taken: Counter[str] = Counter()
    indices = []
    for mine in seen:
        chosen = min(mine, key=lambda uuid: taken[uuid], default=None)
        if chosen is None or taken[chosen] == most:
            return None
        taken[chosen] += 1
        indices.append(mine.index(chosen))
    return indices


def take_one(node) -> int:
    """Collective over the PEs of a node: the index of this PE's GPU. InputError if there are more PEs than GPUs."""
    seen, most = zip(*node.allgather(([gpu.uuid for gpu in visible()], pes_per_gpu())), strict=True)
    indices = assign(seen, min(most))
    if indices is None:
        gpus, pes = len({uuid for mine in seen for uuid in mine}), node.size
        raise InputError(
            f"{pes} PE{'s' * (pes != 1)} on {socket.gethostname()} but {gpus} visible GPU{'s' * (gpus != 1)}: "
            f"each PE needs a GPU of its own (or --backend emulator)"
        )
    return indices[node.rank]
