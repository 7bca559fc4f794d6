"""Nobody waits forever: peers that died are named, waits that expired on the device become one readable error.

Three ways a lost PE shows, whichever comes first: `Watchdog.check` sees that a process of this node is gone; mpirun
sees it and sends SIGTERM, which a thread here answers with the peer's name; the kernel's own wait reaches its limit and
leaves a record.
"""

import os
import signal
import socket
import sys
import threading
import time
from typing import NamedTuple

import numpy as np

from .agreement import name_pes
from .errors import InputError, ShmemtpError, TimeoutError_

__all__ = ["Peer", "PeerLost", "Watchdog", "raise_if_expired", "timeout_s"]

INTERVAL = 0.5  # seconds between two looks at the peers
LAST_LOOK = 0.3  # seconds a PE stays after SIGTERM, so that its peers do not take its leaving for the cause


class PeerLost(ShmemtpError):
    """The process of another PE has ended."""


class Peer(NamedTuple):
    """A PE's process: `node` tells process-id spaces apart, `started` a process from a later one with its id."""

    pe: int
    node: str
    host: str
    pid: int
    started: str | None

    def __str__(self):
        return f"PE {self.pe} (pid {self.pid}, {self.host})"


def timeout_s() -> float:
    """Seconds that a wait on the device lasts at most: SHMEMTP_TIMEOUT_S, by default 10."""
    text = os.environ.get("SHMEMTP_TIMEOUT_S", "10")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise InputError(f"SHMEMTP_TIMEOUT_S is {text!r}: it must be a number of seconds above 0")
    return seconds


def _start_of(pid: int) -> str | None:
    """When a running process started, in the kernel's ticks; None if there is none (or only its remains)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZXx" else fields[19]


def _node() -> str:
    """The same on all processes that see each other's process ids, and on no others."""
    try:
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        space = 0
    return f"{socket.gethostname()}/{space}"


class Watchdog:
    """Knows the processes of all PEs and watches those of this node. Collective over `comm` to make.

    `check()` is for the host thread that waits for a kernel; it is cheap, so call it as often as you like.
    """

    def __init__(self, comm):
        pid = os.getpid()
        me = Peer(comm.rank, _node(), socket.gethostname(), pid, _start_of(pid))
        everyone = [Peer(*peer) for peer in comm.allgather(tuple(me))]
        self.rank, self._next = comm.rank, 0.0
        self.peers = [peer for peer in everyone if peer.pe != me.pe]
        self._near = [peer for peer in self.peers if peer.node == me.node and peer.started is not None]
        self._signals = _TerminationReport(self) if self.peers else None

    def gone(self) -> list[Peer]:
        """The peers of this node whose process has ended."""
        return [peer for peer in self._near if _start_of(peer.pid) != peer.started]

    def check(self):
        """Raises PeerLost if a peer of this node is gone; looks every half second at most."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + INTERVAL
        lost = self.gone()
        if lost:
            raise PeerLost(_gone_text(lost))

    def close(self):
        """Gives SIGTERM back."""
        if self._signals:
            self._signals.close()
            self._signals = None


def _gone_text(lost):
    return ", ".join(map(str, lost)) + (" is gone" if len(lost) == 1 else " are gone")


class _TerminationReport:
    """Answers SIGTERM (mpirun's, once a rank died) with the names of the peers that are gone, then exit code 143.

    A thread does it, woken by Python's signal descriptor: the main thread may be inside MPI or a driver call for long.
    A handler that the program set itself stays in place.
    """

    def __init__(self, watchdog):
        self._watchdog, self._lock, self._installed = watchdog, threading.Lock(), False
        main = threading.current_thread() is threading.main_thread()
        if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            return
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        signal.signal(signal.SIGTERM, lambda number, frame: self._leave())
        self._previous_fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, name="shmemtp-sigterm", daemon=True).start()
        self._installed = True

    def _listen(self):
        while number := os.read(self._reader, 1):
            if number[0] == signal.SIGTERM:
                self._leave()

    def _leave(self):
        if not self._lock.acquire(blocking=False):
            return  # the other one of handler and thread is at it
        lost = self._watchdog.gone()
        others = {peer.pe for peer in self._watchdog._near} - {peer.pe for peer in lost}
        if self._watchdog.rank < min(others, default=self._watchdog.rank + 1):  # one PE speaks for its node
            who = name_pes([self._watchdog.rank])
            why = f": {_gone_text(lost)}" if lost else ""
            os.write(2, f"shmemtp: error: {who} was stopped by SIGTERM{why}\n".encode())
        time.sleep(LAST_LOOK)
        sys.stdout.flush()
        os._exit(128 + signal.SIGTERM)

    def close(self):
        if self._installed:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.set_wakeup_fd(self._previous_fd)
            os.close(self._writer)
            self._installed = False


def raise_if_expired(report: np.ndarray, team=None, kernel: str = "decode"):
    """Raises TimeoutError_ if a wait of the kernel expired.

    `report` is that of the kernel's watch (see device/watch.py). It numbers PEs by their rank in `team`; without one,
    by their rank in the job.
    """
    from .device.watch import COLLECTIVE, OPERATIONS

    limit_ns, expired, rank, operation, other, slot, wanted, seen = map(int, report)
    if not expired:
        return
    pes = team.pes if team else range(max(rank, other) + 1)
    peer = f" from PE {pes[other]}" if other >= 0 and other != rank else ""
    hint = ""
    if operation == COLLECTIVE and kernel != "decode":  # before a request, PEs agree on all of it
        hint = "; did all PEs make the same calls in the same order, with the same counts, grid and block?"
    raise TimeoutError_(
        f"PE {pes[rank]}: {kernel} waited {limit_ns / 1e9:.1f} s for {OPERATIONS[operation]}{peer} "
        f"(slot {slot}, epoch wanted {wanted}, seen {seen}){hint}"
    )
