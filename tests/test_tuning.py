"""Tuning, with a machine whose times are known."""

import contextlib
import io
from types import SimpleNamespace

import pytest

from shmemtp import tuning
from shmemtp.algorithm import ALGORITHMS, NEVER, Row, select
from shmemtp.table import Measurement, read_table
from shmemtp.topology import Topology

SIZES = [1 << n for n in range(10, 16)]
HOP_US, US_A_KIB, US_A_BLOCK = 1.0, 0.25, 0.01


class PaperPE:
    """PE 0 of eight: a hop costs one microsecond, a KiB a quarter, and 16 x 64 threads are the best launch."""

    rank, size, backend = 0, 8, "gpu"

    def __init__(self, reach=True):
        self.heap = SimpleNamespace(distances=[0] * 8 if reach else None)
        self.together = contextlib.nullcontext()
        self.comm = SimpleNamespace(allgather=lambda mine: [mine, [each * 0.9 for each in mine]])
        self.device = SimpleNamespace(multiprocessors=132, warp_size=32, stream=7, replay=self.replay)
        links, near = (("NVLink",) * 8,) * 8, ((True,) * 8,) * 8
        self.topology = Topology((0,) * 8, links, near, "an H200 on paper", "13.0")
        self.open = self.called = 0

    def barrier(self):
        pass

    @contextlib.contextmanager
    def communicator(self, algorithm):
        self.choice = algorithm
        self.open += 1
        yield SimpleNamespace(all_reduce=self.all_reduce, check=lambda: None)
        self.open -= 1

    @contextlib.contextmanager
    def array(self, count, dtype):
        assert dtype == "uint16"
        self.nbytes = 2 * count
        yield self.nbytes

    def all_reduce(self, array, stream=None):
        assert self.open == 1 and array == self.nbytes
        self.called += 1

    def replay(self, call, times):
        row, before = self.choice.row(self.nbytes), self.called
        call()
        assert self.called == before + 1
        hops, bytes_sent = (2, self.nbytes // 4) if row.two_shot else (1, self.nbytes)
        us = HOP_US * hops + US_A_KIB * bytes_sent / 1024 + self.choice.put
        us += US_A_BLOCK * (abs(row.grid - 16) + abs(row.block - 64))
        return SimpleNamespace(seconds=lambda: us * times / 1e6)


@pytest.mark.parametrize("reach", [True, False])
def test_the_fastest_launch_of_each_size_is_kept(reach):
    measured = tuning.measure(PaperPE(reach), SIZES, 3)
    names = ALGORITHMS if reach else ALGORITHMS[2:]
    assert [(row.bytes, row.algorithm) for row in measured] == [(size, name) for size in SIZES for name in names]
    middle = [row for row in measured if 4096 <= row.bytes <= 16384 and row.algorithm.startswith("one-shot")]
    assert {(row.grid, row.block) for row in middle} == {(16, 64)}
    assert measured[0] == Measurement(1024, names[0], 16, 64, 1.25 if reach else 2.25)


def test_the_choice_follows_the_measurement():
    pe = PaperPE()
    choice = select(pe.topology, "auto", True, tuning.measure(pe, SIZES, 1))
    # two-shot saves 3/4 of a quarter of a microsecond a KiB and costs one: 5.3 KiB
    assert choice.two_shot_bytes == 4097
    assert choice.row(20000) == Row(True, 16, 64)


def test_the_report_is_a_table_and_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("SHMEMTP_CACHE_DIR", str(tmp_path))
    pe, answer = PaperPE(), io.StringIO()
    measured = tuning.measure(pe, SIZES, 1)
    tuning.report(pe, SIZES, measured, answer)
    head, *rows, last = answer.getvalue().splitlines()
    assert [word for word in head.split() if "shot" in word] == [f"{name}," for name in ALGORITHMS]
    assert [row.split()[0] for row in rows] == list(map(str, SIZES))
    assert [row.split()[-1] for row in rows] == ["one-shot"] * 3 + ["two-shot"] * 3
    assert rows[0].split()[1:3] == ["1.25", "16x64"]
    assert last.startswith(f"written to {tmp_path}")
    assert read_table(pe.topology) == measured


def test_shapes_fit_the_message_and_the_device():
    assert tuning.shapes(256, 132, 32) == {(4, 64)}  # a line of packets for each block
    assert tuning.shapes(8 << 10, 128, 32) >= {(16, 128), (64, 128), (128, 64)}
    assert tuning.shapes(4 << 20, 132, 32) == {(132, 512)}
    assert tuning.shapes(64 << 20, 132, 32) == {(132, 512)}
    assert tuning.shapes(1024, 2, 1) == {(1, 1), (2, 1)}  # the emulator


def test_launches_are_forced():
    pe = PaperPE()
    tuning.measure(pe, SIZES[:1], 1)
    assert (pe.choice.put, pe.choice.two_shot_bytes) == (True, 0)  # the last: two-shot-put
    assert pe.choice.launches[-1].bytes == NEVER
