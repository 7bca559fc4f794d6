"""PEs, teams, agreements and the watchdog, valid at every PE count."""

import os
import subprocess
import time

import numpy as np
import pytest

import shmemtp
from shmemtp.agreement import Agreement, PeerFailed, exit_code, failures_of, name_pes
from shmemtp.device import kernel
from shmemtp.device.backend import NAME
from shmemtp.device.watch import COLLECTIVE, GRID
from shmemtp.errors import InputError, ShmemtpError, TimeoutError_
from shmemtp.runtime import agree
from shmemtp.watchdog import Peer, PeerLost, Watchdog, raise_if_expired, timeout_s


def test_a_pe_knows_its_place(pe, comm):
    assert (pe.rank, pe.size) == (comm.rank, comm.size)
    assert 0 <= pe.local_rank <= pe.rank
    assert pe.backend == NAME
    assert pe.team.pes == list(range(pe.size))
    assert (pe.team.rank, pe.team.size) == (pe.rank, pe.size)
    assert pe.team.distances.dtype == np.int64
    assert pe.team.distances[pe.rank] == 0
    pe.barrier()
    pe.team.barrier()


def test_split_makes_teams_in_order_of_rank(pe):
    team = pe.split(pe.rank % 2)
    assert team.pes == list(range(pe.rank % 2, pe.size, 2))
    assert team.pes[team.rank] == pe.rank
    assert team.comm.size == team.size == len(team.pes)
    assert list(team.distances) == [pe.heap.distances[other] for other in team.pes]
    team.barrier()


def test_split_leaves_out_who_gives_no_color(pe):
    team = pe.split(0 if pe.rank == 0 else None)
    assert (team is not None) == (pe.rank == 0)


def test_agree(pe):
    assert agree(pe.comm, "things", ("same", 1)) == ("same", 1)
    if pe.size > 1:
        with pytest.raises(InputError, match="^PEs were started with different things: 5 on PE 0, 7 on PE 1"):
            agree(pe.comm, "things", 5 if pe.rank == 0 else 7)


def test_pe_numbers_read_well():
    assert name_pes([0]) == "PE 0"
    assert name_pes([5, 0, 1, 2, 7, 8]) == "PE 0-2, 5, 7-8"


def test_a_failure_on_one_pe_reaches_all(pe):
    together = Agreement(pe.comm)
    last = pe.size - 1
    with pytest.raises(ShmemtpError) as raised, together:
        if pe.rank == last:
            raise InputError("mine alone")
    assert isinstance(raised.value, InputError if pe.rank == last else PeerFailed)
    assert exit_code(raised.value) == 2
    (failure,) = failures_of(raised.value)
    assert failure.message == "mine alone"
    assert failure.pes == ([last] if pe.size > 1 else [])
    if pe.rank != last:
        assert str(raised.value) == f"PE {last}: mine alone"
    with together:
        pass  # and all are in step
    together.free()


def test_the_same_failure_on_all_is_nobodys(pe):
    together = Agreement(pe.comm)
    with pytest.raises(ShmemtpError, match="^everyone's$") as raised, together:
        raise ShmemtpError("everyone's")
    assert failures_of(raised.value)[0].pes == []
    assert exit_code(raised.value) == 1
    together.free()


def test_agreements_nest(pe):
    outer, inner = Agreement(pe.comm), Agreement(pe.comm)
    with pytest.raises(ShmemtpError), outer, inner:
        if pe.rank == 0:
            raise ShmemtpError("once")
    with outer:
        pass
    outer.free()
    inner.free()


def test_leaving_with_success_is_no_failure(pe):
    together = Agreement(pe.comm)
    with pytest.raises(SystemExit), together:
        raise SystemExit(0)
    together.free()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"backend": "cpu"}, "there is no backend 'cpu'"),
        ({"bootstrap": "tcp"}, "there is no bootstrap 'tcp'"),
        ({"backend": "gpu" if NAME == "emulator" else "emulator"}, f"already runs on the {NAME} backend"),
    ],
)
def test_init_refuses(pe, options, told):
    with pytest.raises(InputError, match=told):
        shmemtp.init(**options)


def test_init_refuses_different_backends(pe):
    if pe.size > 1:
        with pytest.raises(InputError, match="different backends"):
            shmemtp.init(backend=NAME if pe.rank else "auto")


def test_init_refuses_different_limits(pe, monkeypatch):
    if pe.size > 1:
        monkeypatch.setenv("SHMEMTP_TIMEOUT_S", "10" if pe.rank else "20")
        with pytest.raises(InputError, match="different SHMEMTP_TIMEOUT_S: 20.0 on PE 0, 10.0 on PE 1"):
            shmemtp.init()


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan"])
def test_the_limit_is_a_time(monkeypatch, text):
    monkeypatch.setenv("SHMEMTP_TIMEOUT_S", text)
    with pytest.raises(InputError, match="SHMEMTP_TIMEOUT_S"):
        timeout_s()


def test_the_limit_by_default(monkeypatch):
    monkeypatch.delenv("SHMEMTP_TIMEOUT_S", raising=False)
    assert timeout_s() == 10.0


def test_the_watchdog_sees_living_peers(pe):
    watchdog = Watchdog(pe.comm)
    assert [peer.pe for peer in watchdog.peers] == [other for other in range(pe.size) if other != pe.rank]
    assert watchdog.gone() == []
    watchdog.check()
    pe.barrier()
    watchdog.close()


def test_the_watchdog_names_a_dead_peer(pe):
    process = subprocess.Popen(["true"])  # which stays as a zombie: dead, though its process id is taken
    child = process.pid
    time.sleep(0.1)
    watchdog = Watchdog(pe.comm)
    watchdog._near = [Peer(7, "here", "some-host", child, "1")]
    with pytest.raises(PeerLost, match=rf"^PE 7 \(pid {child}, some-host\) is gone$"):
        watchdog.check()
    watchdog.check()  # not again within the interval
    process.wait()
    assert [peer.pe for peer in watchdog.gone()] == [7]
    watchdog._near = [Peer(7, "here", "some-host", os.getpid(), "1")]
    assert [peer.pe for peer in watchdog.gone()] == [7]  # another process has its id now
    watchdog.close()


def test_no_wait_expired():
    raise_if_expired(np.array([10**10, 0, 0, 0, 0, 0, 0, 0]))


def test_an_expired_wait_becomes_one_error():
    expired = np.array([10**10, 1, 0, COLLECTIVE, 1, 12, 77, 75])
    told = r"^PE 0: decode waited 10.0 s for a collective's data from PE 1 \(slot 12, epoch wanted 77, seen 75\)$"
    with pytest.raises(TimeoutError_, match=told):
        raise_if_expired(expired)
    with pytest.raises(TimeoutError_, match=r"seen 75\); did all PEs make the same calls .* grid and block\?$"):
        raise_if_expired(expired, kernel="average")
    with pytest.raises(TimeoutError_, match=r"^PE 0: exchange waited 0.5 s for a barrier of blocks \(slot.*\)$"):
        raise_if_expired(np.array([5 * 10**8, 1, 0, GRID, 0, 0, 1, 0]), kernel="exchange")


def test_an_expired_wait_names_the_pes_of_a_team(pe):
    class Pair:
        pes = [4, 6]

    with pytest.raises(TimeoutError_, match="^PE 6: decode waited 10.0 s for .* from PE 4 "):
        raise_if_expired(np.array([10**10, 1, 1, COLLECTIVE, 0, 0, 1, 0]), Pair)


@kernel
def nothing(argument):
    pass


@pytest.mark.parametrize(
    ("argument", "told"), [(np.zeros(3), "ndarray is no"), ([1, 2], "list is no"), ((np.zeros(3),), "ndarray is no")]
)
def test_what_is_no_argument_of_a_kernel(pe, argument, told):
    with pytest.raises(InputError, match=f"{told} argument of a kernel: pe.array"):
        pe.run(nothing, 1, pe.device.warp_size, argument)


@pytest.mark.parametrize("given", [(), (1, 2)])
def test_arguments_of_another_number_than_a_kernel_takes(pe, given):
    told = rf"^nothing takes 1 argument \(argument\) and was given {len(given)}$"
    compiled = pe.device.compile(nothing, (1,))
    for start in (pe.device.compile, lambda kernel, args: pe.run(kernel, 1, pe.device.warp_size, *args)):
        with pytest.raises(InputError, match=told):
            start(nothing, given)
    with pytest.raises(InputError, match=told):
        pe.device.launch(compiled, 1, pe.device.warp_size, given)
