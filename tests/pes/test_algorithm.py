"""PEs choose an algorithm together."""

import pytest

from shmemtp.algorithm import NEVER, Choice, Launch, choose
from shmemtp.errors import InputError
from shmemtp.table import Measurement, table_path, write_table


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """Each PE's own cache folder, with nothing in it; nothing asked for by the environment."""
    monkeypatch.setenv("SHMEMTP_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("SHMEMTP_ALGORITHM", raising=False)


def test_all_make_the_same_choice(pe, comm):
    choice = choose(pe)
    assert len(set(comm.allgather(choice))) == 1
    assert choice.put == (pe.heap.distances is None)


def test_pe_0_reads_the_table_for_all(pe, comm):
    if pe.rank == 0:
        times = {"one-shot": 1.0, "two-shot": 2.0, "one-shot-put": 2.0, "two-shot-put": 1.0}
        write_table(pe.topology, [Measurement(1024, name, 3, 96, us) for name, us in times.items()])
    comm.Barrier()
    assert table_path(pe.topology).exists() == (pe.rank == 0)
    choice = choose(pe)
    assert choice.row(1024)[1:] == (3, 96)
    assert choice.two_shot_bytes == (513 if choice.put else NEVER)


@pytest.mark.parametrize("name", ["put", "two-shot-put"])
def test_puts_run_anywhere(pe, name):
    assert choose(pe, name).algorithm(1) == {"put": "one-shot-put"}.get(name, name)


def test_a_team_chooses_for_itself(pe):
    team = pe.split(pe.rank % 2)
    choice = choose(pe, "auto", team)
    if team.size == 1:
        assert choice.two_shot_bytes == NEVER


def test_different_wishes_are_an_error_on_all(pe, monkeypatch):
    if pe.rank == pe.size - 1:
        monkeypatch.setenv("SHMEMTP_ALGORITHM", "one-shot-put")
    if pe.size > 1:
        with pytest.raises(InputError, match=f"different algorithms: .*one-shot-put on PE {pe.size - 1}"):
            choose(pe)
    with pytest.raises(InputError, match="no algorithm 'ring'"):
        choose(pe, "ring")


def test_choices_made_by_hand_are_compared(pe):
    launches = Launch(NEVER, 1, 1), Launch(NEVER, 2, 1)
    mine = Choice(True, NEVER, launches[:1])
    assert choose(pe, mine) == mine
    if pe.size > 1:
        with pytest.raises(InputError, match="different algorithms: .*grid=1.* on PE 0"):
            choose(pe, Choice(True, NEVER, launches[min(pe.rank, 1) :][:1]))
