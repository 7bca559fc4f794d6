"""PEs agree: that they were asked for the same, and whether one of them failed.

An exception that flies on one PE alone would leave the others waiting in the next collective call. An `Agreement` is
where all PEs meet, the failed ones too: each then knows who failed and why, and all leave together.
"""

import os
import sys
import time
import traceback
from typing import Any, NamedTuple

from .errors import CheckpointError, InputError, ShmemtpError

__all__ = ["Agreement", "Failure", "PeerFailed", "agree", "exit_code", "failures_of", "name_pes", "report"]

LAST_WORDS = 0.2  # seconds that mpirun has to pass on what was printed before the job ends
PATIENCE = 3.0  # seconds that a PE which failed waits for the others before it ends the job


class Failure(NamedTuple):
    """The same failure of some PEs: who, what, and the exit code it asks for."""

    pes: list[int]
    message: str
    code: int


class PeerFailed(ShmemtpError):
    """Another PE failed, this one did not: its message names that PE and says why."""


def name_pes(pes) -> str:
    """PE numbers for a person: `PE 0-2, 5`."""
    runs: list[list[int]] = []
    for pe in sorted(pes):
        if runs and pe == runs[-1][1] + 1:
            runs[-1][1] = pe
        else:
            runs.append([pe, pe])
    return "PE " + ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def _group(values) -> list[tuple[Any, list[int]]]:
    """[(value, [PEs that have it])], in the order of the PEs."""
    groups: list[tuple[Any, list[int]]] = []
    for pe, value in enumerate(values):
        for known, pes in groups:
            if known == value:
                pes.append(pe)
                break
        else:
            groups.append((value, [pe]))
    return groups


def agree(comm, what: str, value, deed: str = "were started with"):
    """Collective: returns `value` if all PEs of `comm` have the same; else raises, on all, who has which."""
    groups = _group(comm.allgather(value))
    if len(groups) > 1:
        told = ", ".join(f"{value} on {name_pes(pes)}" for value, pes in groups)
        raise InputError(f"PEs {deed} different {what}: {told}")
    return value


def exit_code(error: BaseException) -> int:
    """2 for bad input, 130 for an interrupt, as shells have it, 1 for anything else; another PE's if it failed."""
    if isinstance(error, PeerFailed):
        return (failures_of(error) or [Failure([], "", 1)])[0].code
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 2 if isinstance(error, (InputError, CheckpointError)) else 1


def failures_of(error: BaseException) -> list[Failure] | None:
    """What the PEs told each other of this error; None if they have not met over it."""
    return getattr(error, "_shmemtp_failures", None)


def _message(error):
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, ShmemtpError):
        return str(error)
    where = "" if os.environ.get("SHMEMTP_DEBUG") == "1" else " (SHMEMTP_DEBUG=1 shows where)"
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}{where}"


def report(error: BaseException, pe: int | None = None):
    """Writes an error on standard error: one line for each cause, under SHMEMTP_DEBUG=1 the traceback too."""
    if os.environ.get("SHMEMTP_DEBUG") == "1":
        traceback.print_exception(error)
    causes = failures_of(error) or [Failure([], _message(error), 1)]
    for failure in causes:
        pes = [pe] if pe is not None else failure.pes
        who = f"{name_pes(pes)}: " if pes else ""
        print(f"shmemtp: error: {who}{failure.message.removeprefix(who)}", file=sys.stderr, flush=True)


class Agreement:
    """A meeting point of all PEs of `comm`; collective to make, use and free.

    As a context manager: the PEs meet at its end, and if the body failed on any PE, all raise. A PE whose own body
    failed raises its own exception, the others `PeerFailed`. Where the others do not come (they wait for this PE in the
    body, say), the PE that failed prints its error and ends the job: nobody hangs.
    """

    def __init__(self, comm):
        self._comm = comm.Dup()  # of its own, so that a meeting never mixes with what the others are in

    def free(self):
        self._comm.Free()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        raised = self.settle(error)
        if raised is not None and raised is not error:
            raise raised

    def settle(self, error: BaseException | None) -> BaseException | None:
        """Meets the others; returns what this PE shall raise: None, its own error, or the news of another PE's."""
        if isinstance(error, SystemExit) and not error.code:
            error = None
        if error is not None and failures_of(error) is not None:
            return error  # they have met over it
        if not self._meet(error):
            return None
        told = self._comm.allgather(None if error is None else (_message(error), exit_code(error)))
        failures = [Failure(pes, *what) for what, pes in _group(told) if what is not None]
        if len(failures) == 1 and len(failures[0].pes) == self._comm.size:
            failures = [failures[0]._replace(pes=[])]  # everyone's: no need to say whose
        if error is None:
            error = PeerFailed("; ".join(f"{name_pes(f.pes)}: {f.message}" for f in failures))
        error._shmemtp_failures = failures  # type: ignore[attr-defined]
        return error

    def _meet(self, error) -> bool:
        """Waits until all PEs are here; True if one of them failed. One that failed does not wait forever."""
        failed = bytearray(self._comm.size)
        arrival = self._comm.Iallgather(bytearray([error is not None]), failed)
        limit = time.monotonic() + PATIENCE
        while not arrival.Test():
            if error is not None and time.monotonic() > limit:
                self._abort(error)
            time.sleep(0.0005)
        return any(failed)

    def _abort(self, error):
        if not isinstance(error, ShmemtpError):
            sys.excepthook(type(error), error, error.__traceback__)  # as the program would show it
        report(error, self._comm.rank)
        sys.stdout.flush()
        time.sleep(LAST_WORDS)
        self._comm.Abort(exit_code(error))
