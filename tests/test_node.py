"""Which PE of a node takes which GPU."""

import pytest

pytest.importorskip("cuda.bindings", reason="needs the gpu extra")

from shmemtp.device.backend.gpu import node
from shmemtp.errors import InputError


@pytest.mark.parametrize(
    ("seen", "indices"),
    [
        ([["a", "b"], ["a", "b"]], [0, 1]),  # all see all: by local rank
        ([["a", "b", "c"]], [0]),
        ([["a"], ["b"]], [0, 0]),  # bound to one each by the launcher
        ([["a", "b"], ["b"]], [0, 0]),
        ([["a", "b"], ["c", "d"], ["a", "b"], ["c", "d"]], [0, 0, 1, 1]),  # bound to a socket's GPUs
        ([["a", "b"]] * 3, None),
        ([["a"], ["a"]], None),
        ([[]], None),
    ],
)
def test_each_pe_takes_a_gpu_of_its_own(seen, indices):
    assert node.assign(seen) == indices


@pytest.mark.parametrize(
    ("seen", "most", "indices"),
    [
        ([["a", "b"]] * 4, 2, [0, 1, 0, 1]),  # a free one first, then the one that fewest have
        ([["a"]] * 3, 4, [0, 0, 0]),
        ([["a", "b"], ["b"], ["b"]], 2, [0, 0, 0]),
        ([["a", "b"]] * 5, 2, None),
    ],
)
def test_so_many_pes_may_share_one(seen, most, indices):
    assert node.assign(seen, most) == indices


class Node:
    """The PEs of a node, all of which see the same."""

    rank = 2

    def __init__(self, size):
        self.size = size

    def allgather(self, mine):
        return [mine] * self.size


def gpu(ordinal):
    return node.Gpu(ordinal, "GPU", f"uuid-{ordinal}", 2**30, (9, 0))


def test_by_local_rank(monkeypatch):
    monkeypatch.setattr(node, "visible", lambda: [gpu(0), gpu(1), gpu(2), gpu(3)])
    assert node.take_one(Node(4)) == 2


@pytest.mark.parametrize(
    ("pes", "gpus", "told"), [(4, 2, "4 PEs on .* but 2 visible GPUs:"), (3, 1, "but 1 visible GPU:")]
)
def test_more_pes_than_gpus(monkeypatch, pes, gpus, told):
    monkeypatch.setattr(node, "visible", lambda: [gpu(ordinal) for ordinal in range(gpus)])
    with pytest.raises(InputError, match=told):
        node.take_one(Node(pes))


def test_pes_per_gpu_is_a_number(monkeypatch):
    monkeypatch.setattr(node, "visible", lambda: [gpu(0)])
    monkeypatch.setenv("SHMEMTP_PES_PER_GPU", "4")
    assert node.take_one(Node(4)) == 0
    for wrong in ("0", "two", "-1", ""):
        monkeypatch.setenv("SHMEMTP_PES_PER_GPU", wrong)
        with pytest.raises(InputError, match="SHMEMTP_PES_PER_GPU"):
            node.take_one(Node(4))
