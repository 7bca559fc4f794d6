"""The choice of an algorithm: from tables that are built in, measured, old or broken, or because one was asked for."""

import json
import logging
from types import SimpleNamespace

import pytest

from shmemtp import algorithm
from shmemtp.algorithm import ALGORITHMS, NAMES, NEVER, Choice, Launch, Row, choose, select
from shmemtp.errors import InputError
from shmemtp.table import Measurement, read_table, table_path, write_table
from shmemtp.topology import Topology

KIB = 1024


def job(pes, hosts=None, gpu="NVIDIA H200", reach=True):
    between = tuple(tuple("" if a == b else "NVLink" for b in range(pes)) for a in range(pes))
    near = tuple(tuple(a == b or reach for b in range(pes)) for a in range(pes))
    return Topology(tuple(hosts or [0] * pes), between, near, gpu, "13.0", 18)


def measured(one, two, put="", sizes=(1, 2, 4, 8)):
    """Microseconds of one-shot and two-shot at `sizes` KiB; each size has a slower launch, too."""
    rows = []
    for size, *times in zip(sizes, one, two, strict=True):
        for name, us in zip(("one-shot", "two-shot"), times, strict=True):
            rows.append(Measurement(size * KIB, name + put, size, 64, us))
            rows.append(Measurement(size * KIB, name + put, 99, 99, us * 1.5))
    return rows


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SHMEMTP_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("SHMEMTP_ALGORITHM", raising=False)
    return tmp_path


@pytest.fixture
def log(monkeypatch, caplog):
    """log(): what was logged since the last call, [(level, line)]."""
    monkeypatch.setattr(logging.getLogger("shmemtp"), "propagate", True)
    caplog.set_level(logging.INFO, "shmemtp")
    algorithm._say_once.cache_clear()

    def read():
        lines = [(record.levelname, record.getMessage()) for record in caplog.records]
        caplog.clear()
        return lines

    return read


def lone_pe(topology, told=None, reach=True):
    """PE 0, of which the others say `told` where it says what it was asked for."""
    pes = topology.pes
    comm = SimpleNamespace(
        allgather=lambda mine: [mine] + [told or mine] * (pes - 1),
        bcast=lambda value: value,
    )
    team = SimpleNamespace(comm=comm, rank=0, size=pes, pes=range(pes), distances=[0] * pes if reach else None)
    return SimpleNamespace(team=team, topology=topology)


@pytest.mark.parametrize(
    ("pes", "two_shot_bytes"), [(1, NEVER), (2, NEVER), (3, 256 << 10), (4, 192 << 10), (8, 64 << 10), (16, 64 << 10)]
)
def test_the_built_in_table_goes_by_pes(pes, two_shot_bytes):
    choice = select(job(pes), "auto", True)
    assert (choice.put, choice.two_shot_bytes) == (False, two_shot_bytes)
    assert "built-in" in choice.reason


def test_a_row_is_for_a_message_of_its_size():
    choice = Choice(False, 64, (Launch(64, 2, 32), Launch(128, 4, 64)))
    assert choice.row(1) == choice.row(63) == Row(False, 2, 32)
    assert choice.row(64) == Row(True, 2, 32)
    assert choice.row(65) == choice.row(1 << 40) == Row(True, 4, 64)
    assert [choice.algorithm(nbytes) for nbytes in (63, 64)] == ["one-shot", "two-shot"]
    assert Choice(True, 64, choice.launches).algorithm(64) == "two-shot-put"


def test_the_emulator_launches_one_thread():
    assert select(job(4, gpu="emulator"), "auto", True).row(1 << 30) == Row(True, 1, 1)


@pytest.mark.parametrize(
    ("one", "two", "two_shot_bytes"),
    [
        ((1, 2, 4, 8), (3, 3, 3, 3), 2 * KIB + 1),
        ((1, 1, 1, 1), (2, 2, 2, 2), NEVER),
        ((2, 2, 2, 2), (1, 1, 1, 1), KIB // 2 + 1),  # below the smallest size nothing was measured
        ((1, 2.1, 4, 8), (2, 2, 4.1, 4), KIB + 1),  # noise at 4 KiB moves nothing
    ],
)
def test_two_shot_begins_where_least_is_lost(one, two, two_shot_bytes):
    choice = select(job(8), "auto", True, measured(one, two))
    assert choice.two_shot_bytes == two_shot_bytes
    assert "`shmemtp tune` measured" in choice.reason
    assert [choice.row(size * KIB) for size in (1, 2, 4, 8)] == [
        Row(size * KIB >= two_shot_bytes, size, 64) for size in (1, 2, 4, 8)
    ]


def test_put_has_rows_of_its_own():
    table = measured((1, 2, 4, 8), (3, 3, 3, 3)) + measured((1, 1, 1, 1), (2, 2, 2, 2), "-put")
    assert select(job(8), "auto", True, table).two_shot_bytes == 2 * KIB + 1
    assert select(job(8), "auto", False, table).two_shot_bytes == NEVER
    packets_only = measured((1, 2, 4, 8), (3, 3, 3, 3))
    assert "built-in" in select(job(8), "auto", False, packets_only).reason


@pytest.mark.parametrize("name", [*ALGORITHMS, "packets", "put"])
def test_what_is_asked_for_is_taken_at_every_size(name):
    wanted = {"packets": "one-shot", "put": "one-shot-put"}.get(name, name)
    for table in (None, measured((1, 1, 1, 1), (2, 2, 2, 2), "-put" * name.endswith("put"))):
        choice = select(job(4), name, True, table)
        assert {choice.algorithm(nbytes) for nbytes in (1, KIB, 1 << 30)} == {wanted}
        assert choice.reason == f"{wanted}, as asked for"
    assert choice.row(2 * KIB) == Row("two" in wanted, 2, 64)  # launched as measured


def test_without_reach_it_falls_back_and_says_why():
    choice = select(job(4, reach=False), "auto", False)
    assert choice.put
    assert choice.reason.startswith("put_signal, for PE 0 does not reach the memory of PE 1 (NVLink); ")
    assert "NVSHMEM maps no memory of peers" in select(job(4), "auto", False).reason


@pytest.mark.parametrize("name", ["one-shot", "two-shot", "packets"])
def test_what_cannot_run_is_an_error(name):
    with pytest.raises(InputError, match=f"{name} needs P2P reach .* PE 0 does not reach .*: use (one|two)-shot-put"):
        select(job(4, reach=False), name, False)


def test_the_environment_asks_where_nobody_else_does(folder, log, monkeypatch):
    monkeypatch.setenv("SHMEMTP_ALGORITHM", "two-shot")
    assert choose(lone_pe(job(4))).algorithm(1) == "two-shot"
    assert choose(lone_pe(job(4)), "put").algorithm(1) == "one-shot-put"
    monkeypatch.setenv("SHMEMTP_ALGORITHM", "")
    assert choose(lone_pe(job(4))).two_shot_bytes == 192 << 10
    assert [line for _, line in log()] == [
        "collectives of 4 PEs: two-shot, as asked for",
        "collectives of 4 PEs: one-shot-put, as asked for",
        "collectives of 4 PEs: packets; two-shot from 192 KiB on, by the built-in table "
        "(`shmemtp tune` measures this machine)",
    ]
    choose(lone_pe(job(4)))
    assert log() == []  # it was said


def test_names_that_are_not_there(folder, monkeypatch):
    with pytest.raises(InputError, match=f"no algorithm 'ring': choose one of {', '.join(NAMES)}"):
        choose(lone_pe(job(4)), "ring")
    monkeypatch.setenv("SHMEMTP_ALGORITHM", "tree")
    with pytest.raises(InputError, match="no algorithm 'tree'"):
        choose(lone_pe(job(4)))


def test_pes_that_ask_for_different_ones(folder, monkeypatch):
    monkeypatch.setenv("SHMEMTP_ALGORITHM", "two-shot")
    with pytest.raises(InputError, match="different algorithms: two-shot on PE 0, one-shot on PE 1-3"):
        choose(lone_pe(job(4), told="one-shot"))


def test_a_choice_is_taken_as_it_is():
    choice = Choice(True, 0, (Launch(1, 2, 3),))
    assert choose(lone_pe(job(4)), choice) == choice


def test_the_measured_table_is_found_again(folder, log):
    table = measured((1, 2, 4, 8), (3, 3, 3, 3))
    assert read_table(job(8)) is None
    path = write_table(job(8), table)
    assert path == table_path(job(8))
    assert path.parent == folder / "tuned"
    assert path.name.startswith("NVIDIA-H200-pes-8-nodes-1-NVLink-cuda-13.0-shmemtp-")
    assert read_table(job(8)) == table
    assert json.loads(path.read_text())["measured"][0] == table[0]._asdict()
    assert list(path.parent.iterdir()) == [path]
    assert choose(lone_pe(job(8))).two_shot_bytes == 2 * KIB + 1
    for other in (job(4), job(8, [0, 0, 0, 0, 4, 4, 4, 4]), job(8, gpu="NVIDIA B200")):
        assert read_table(other) is None
    assert [level for level, _ in log()] == ["INFO"]


def broken(path, what):
    text = path.read_text()
    changed = {
        "no JSON": "{",
        "no table": "[]",
        "no rows": "{}",
        "for another": text.replace("H200", "H100"),
        "a field too many": text.replace('"grid"', '"grids"'),
        "no number": text.replace('"us": 3', '"us": "fast"'),
        "never": text.replace('"us": 3', '"us": 0'),
        "binary": "\x00\xff",
    }
    path.write_bytes(changed[what].encode("latin-1"))


@pytest.mark.parametrize(
    "what", ["no JSON", "no table", "no rows", "for another", "a field too many", "no number", "never", "binary"]
)
def test_a_table_that_cannot_be_read_is_one_warning(folder, log, what):
    path = write_table(job(8), measured((1, 2, 4, 8), (3, 3, 3, 3)))
    broken(path, what)
    assert choose(lone_pe(job(8))).two_shot_bytes == 64 << 10
    (warning,) = [line for level, line in log() if level == "WARNING"]
    assert str(path) in warning and "\n" not in warning


def test_a_folder_in_its_place_is_one_warning(folder, log):
    table_path(job(8)).mkdir(parents=True)
    assert read_table(job(8)) is None
    assert [level for level, _ in log()] == ["WARNING"]
