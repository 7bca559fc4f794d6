"""The GPUs of this node, as the CUDA driver sees them: which are there, who reaches whom, which PE takes which."""

import socket
from typing import NamedTuple

from cuda.bindings import driver

from shmemtp.errors import InputError, ShmemtpError

__all__ = ["Gpu", "assign", "driver_version", "reaches", "take_one", "visible"]


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


def assign(seen: list[list[str]]) -> list[int] | None:
    """One GPU for each PE of a node: the index in each PE's own list of GPU ids; None if they are too few.

    PEs that see the same GPUs get them in order of local rank; PEs whose launcher bound them to one GPU each get that.
    """
    taken: set[str] = set()
    indices = []
    for mine in seen:
        free = [uuid for uuid in mine if uuid not in taken]
        if not free:
            return None
        taken.add(free[0])
        indices.append(mine.index(free[0]))
    return indices


def take_one(node) -> int:
    """Collective over the PEs of a node: the index of this PE's GPU. InputError if there are more PEs than GPUs."""
    seen = node.allgather([gpu.uuid for gpu in visible()])
    indices = assign(seen)
    if indices is None:
        gpus, pes = len({uuid for mine in seen for uuid in mine}), node.size
        raise InputError(
            f"{pes} PE{'s' * (pes != 1)} on {socket.gethostname()} but {gpus} visible GPU{'s' * (gpus != 1)}: "
            f"each PE needs a GPU of its own (or --backend emulator)"
        )
    return indices[node.rank]
