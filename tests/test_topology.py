"""Topologies that no machine here has: several nodes, GPUs with and without NVLink, a node without NVML."""

from types import SimpleNamespace

import pytest

pytest.importorskip("pynvml", reason="needs the gpu extra")

from shmemtp import topology
from shmemtp.device.backend.gpu import links, node
from shmemtp.topology import Topology

UUIDS = [f"{number:032x}" for number in range(4)]


def job(hosts, link, reach, nvlinks=18):
    """A Topology in which every two PEs of a node are joined by `link`."""
    pes = range(len(hosts))
    between = [["" if a == b else link if hosts[a] == hosts[b] else "network" for b in pes] for a in pes]
    near = [[a == b or (reach and hosts[a] == hosts[b]) for b in pes] for a in pes]
    return Topology(tuple(hosts), tuple(map(tuple, between)), tuple(map(tuple, near)), "NVIDIA H200", "13.0", nvlinks)


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (job([0] * 8, "NVLink", True), "8 PEs on 1 node: NVIDIA H200, all pairs over NVLink (18 links)"),
        (job([0] * 2, "PCIe", False, 0), "2 PEs on 1 node: NVIDIA H200, all pairs over PCIe"),
        (job([0], "NVLink", True), "1 PE on 1 node: NVIDIA H200"),
        (
            job([0, 0, 2, 2], "NVLink", True, 0),
            "4 PEs on 2 nodes: NVIDIA H200, 2 pairs over NVLink, 4 pairs over the network",
        ),
    ],
)
def test_one_line_says_it(found, line):
    assert str(found) == line


def test_the_pair_without_reach_is_named():
    assert job([0] * 4, "NVLink", True).without_reach() is None
    assert job([0, 0, 2, 2], "NVLink", True).without_reach() == (0, 2)
    assert job([0, 0, 2, 2], "NVLink", True).of([2, 3]).without_reach() is None


class FakeNvml:
    """Four GPUs; P2P in pairs, over NVLink between the first two only."""

    def __init__(self, monkeypatch, missing=None):
        self.missing, self.opened = missing, 0
        names = ("Init", "Shutdown", "DeviceGetHandleByUUID", "DeviceGetP2PStatus", "DeviceGetNvLinkState")
        for name in names:
            monkeypatch.setattr(links.pynvml, f"nvml{name}", getattr(self, name))

    def Init(self):
        if self.missing == "library":
            raise links.pynvml.NVMLError(links.pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
        self.opened += 1

    def Shutdown(self):
        self.opened -= 1

    def DeviceGetHandleByUUID(self, uuid):
        assert uuid.startswith("GPU-00000000-0000-0000-0000-")
        if self.missing == uuid[-1]:
            raise links.pynvml.NVMLError(links.pynvml.NVML_ERROR_NOT_FOUND)
        return int(uuid[-1])

    def DeviceGetP2PStatus(self, own, other, kind):
        nvlink = kind == links.pynvml.NVML_P2P_CAPS_INDEX_NVLINK
        fine = {own, other} == {0, 1} if nvlink else own // 2 == other // 2
        return links.pynvml.NVML_P2P_STATUS_OK if fine else links.pynvml.NVML_P2P_STATUS_NOT_SUPPORTED

    def DeviceGetNvLinkState(self, handle, link):
        if link == 6:
            raise links.pynvml.NVMLError(links.pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return int(link < 4)


def test_nvml_tells_what_lies_between(monkeypatch):
    nvml = FakeNvml(monkeypatch)
    assert links.links(UUIDS[0], UUIDS[1:]) == [(True, True), (False, False), (False, False)]
    assert links.links(UUIDS[2], UUIDS[3:]) == [(True, False)]
    assert links.active_nvlinks(UUIDS[0]) == 4
    assert nvml.opened == 0


@pytest.mark.parametrize("missing", ["library", "1"])
def test_without_nvml_the_driver_tells(monkeypatch, missing):
    FakeNvml(monkeypatch, missing)
    gpus = [node.Gpu(ordinal, "GPU", UUIDS[ordinal], 2**30, (9, 0)) for ordinal in range(2)]
    monkeypatch.setattr(links, "visible", lambda: gpus)
    monkeypatch.setattr(links, "reaches", lambda own, other: (True, other.ordinal == 1))
    assert links.links(UUIDS[0], [UUIDS[1], UUIDS[2]]) == [(True, True), (False, False)]  # the last is not visible
    assert links.active_nvlinks(UUIDS[1]) == 0


class Gathered:
    """The communicator of PE 0 of a job on GPUs, of which all PEs tell the same but for who they are."""

    def __init__(self, hosts, uuids=UUIDS):
        self.hosts, self.uuids = hosts, uuids

    def Split_type(self, kind, rank):
        return SimpleNamespace(bcast=lambda value: value, Free=lambda: None)

    def allgather(self, mine):
        if isinstance(mine[0], int):
            host, _, *rest = mine
            return [(host, uuid, *rest) for host, uuid in zip(self.hosts, self.uuids, strict=False)]
        return [mine] * len(self.hosts)


def find_on_gpus(monkeypatch, comm, distances):
    """What PE 0 of 4 finds."""
    FakeNvml(monkeypatch)
    gpus = [node.Gpu(0, "NVIDIA H200", UUIDS[0], 2**30, (9, 0))]
    monkeypatch.setattr(node, "visible", lambda: gpus)
    monkeypatch.setattr(node, "driver_version", lambda: (13, 0))
    device = SimpleNamespace(name="NVIDIA H200", machine=SimpleNamespace(id=0))
    heap = SimpleNamespace(distances=distances)
    pe = SimpleNamespace(comm=comm, rank=0, size=4, backend="gpu", device=device, heap=heap)
    return topology.find(pe)


@pytest.mark.parametrize(
    ("hosts", "distances", "between", "reach"),
    [
        ([0, 0, 2, 2], None, ("", "NVLink", "network", "network"), (True, True, False, False)),
        ([0, 0, 2, 2], [0, 1, 2, 3], ("", "NVLink", "NVLink", "NVLink"), (True, True, True, True)),
        ([0, 0, 0, 0], None, ("", "NVLink", "PCIe", "PCIe"), (True, True, False, False)),
    ],
)
def test_a_job_on_gpus(monkeypatch, hosts, distances, between, reach):
    found = find_on_gpus(monkeypatch, Gathered(hosts), distances)
    assert (found.links[0], found.reach[0]) == (between, reach)
    assert (found.gpu, found.cuda, found.nvlinks) == ("NVIDIA H200", "13.0", 4)


def test_pes_that_share_gpus(monkeypatch):
    pairs = Gathered([0] * 4, [UUIDS[0], UUIDS[1]] * 2)
    found = find_on_gpus(monkeypatch, pairs, distances=[0, 1, 2, 3])
    assert found.links[0] == ("", "NVLink", "one GPU", "NVLink")
    assert all(found.reach[0]) and found.whole_lines


@pytest.mark.parametrize(
    ("links", "whole"),
    [
        ((("",),), True),
        ((("", "NVLink"), ("NVLink", "")), True),
        ((("", "shared memory"), ("shared memory", "")), True),
        ((("", "one GPU"), ("one GPU", "")), True),
        ((("", "PCIe"), ("PCIe", "")), False),
        ((("", "network"), ("network", "")), False),
        ((("", "NVLink", "PCIe"), ("NVLink", "", "NVLink"), ("PCIe", "NVLink", "")), False),
    ],
)
def test_lines_arrive_whole_over_nvlink(links, whole):
    pes = len(links)
    topology = Topology((0,) * pes, links, ((True,) * pes,) * pes, "a GPU")
    assert topology.whole_lines == whole
