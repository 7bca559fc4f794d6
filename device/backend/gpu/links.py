"""What lies between the GPUs of a node, NVLink or PCIe: NVML tells, and the CUDA driver where there is no NVML."""

import contextlib
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import pynvml

from .node import reaches, visible

__all__ = ["Link", "active_nvlinks", "links"]


class Link(NamedTuple):
    """From one GPU to another: whether kernels load and store there directly, and whether that goes over NVLink."""

    reach: bool
    nvlink: bool


@contextlib.contextmanager
def _nvml():
    pynvml.nvmlInit()
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _handle(uuid):
    return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{UUID(uuid)}")


def links(own: str, others: Sequence[str]) -> list[Link]:
    """What lies between the GPU `own` and each of `others`, all of this node; a GPU is its uuid (`Gpu.uuid`)."""
    try:
        with _nvml():
            return [_link_by_nvml(_handle(own), _handle(other)) for other in others]
    except pynvml.NVMLError:  # no library, or in a container it does not show every GPU
        seen = {gpu.uuid: gpu for gpu in visible()}
        return [_link_by_driver(seen.get(own), seen.get(other)) for other in others]


def _link_by_nvml(own, other):
    kinds = (pynvml.NVML_P2P_CAPS_INDEX_WRITE, pynvml.NVML_P2P_CAPS_INDEX_NVLINK)
    status = [pynvml.nvmlDeviceGetP2PStatus(own, other, kind) == pynvml.NVML_P2P_STATUS_OK for kind in kinds]
    return Link(*status)


def _link_by_driver(own, other):
    return Link(*reaches(own, other)) if own and other else Link(False, False)


def active_nvlinks(uuid: str) -> int:
    """How many NVLinks of a GPU are up; 0 where NVML does not tell."""
    up = 0
    with contextlib.suppress(pynvml.NVMLError), _nvml():  # past the last link it raises too
        handle = _handle(uuid)
        for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
            up += pynvml.nvmlDeviceGetNvLinkState(handle, link) == pynvml.NVML_FEATURE_ENABLED
    return up
