"""Which algorithm a collective takes, and how its kernel is launched: by size, PEs and topology, from a table."""

import functools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .agreement import agree
from .errors import InputError
from .log import LOG
from .table import Measurement, read_table
from .topology import Topology

__all__ = ["ALGORITHMS", "NAMES", "NEVER", "Choice", "Launch", "Row", "choose", "select"]

ALGORITHMS = ("one-shot", "two-shot", "one-shot-put", "two-shot-put")  # number 2 * put + two_shot
SYNONYMS = {"packets": "one-shot", "put": "one-shot-put"}
NAMES = ("auto", *ALGORITHMS, *SYNONYMS)
NEVER = 1 << 62  # bytes: no message is so large

# Where no table was measured. Bytes from which two-shot is faster, by the number of PEs (or the next smaller one here):
# between 2 PEs it moves as many bytes and takes a hop more; 4 as measured on H200s, 3 and 8 are guesses.
TWO_SHOT_BYTES = {1: NEVER, 3: 256 << 10, 4: 192 << 10, 8: 64 << 10}


class Launch(NamedTuple):
    """Blocks and their threads for a message of up to so many bytes."""

    bytes: int
    grid: int
    block: int


LAUNCHES = (
    Launch(32 << 10, 128, 64),
    Launch(64 << 10, 64, 256),
    Launch(128 << 10, 64, 512),
    Launch(256 << 10, 128, 384),
    Launch(NEVER, 128, 512),
)
EMULATOR_LAUNCHES = (Launch(NEVER, 1, 1),)


class Row(NamedTuple):
    """One message's algorithm (one-shot or two-shot) and launch."""

    two_shot: bool
    grid: int
    block: int


@dataclass(frozen=True)
class Choice:
    """How a team's collectives go: the same on all its PEs.

    `put`: through NVSHMEM's put_signal, not as packets. Messages of `two_shot_bytes` or more take two-shot (0: all,
    NEVER: none). A message's bytes are what a PE sends to each of the others in one-shot: an all-reduce's vector, the
    own part of an all-gather. `launches` are in the order of their bytes; the last one also serves what is larger.
    """

    put: bool
    two_shot_bytes: int
    launches: tuple[Launch, ...]
    reason: str = ""

    def row(self, nbytes: int) -> Row:
        """For one call with a message of `nbytes`. The grid is as measured: a communicator may have fewer lanes."""
        fitting = next((launch for launch in self.launches if nbytes <= launch.bytes), self.launches[-1])
        return Row(nbytes >= self.two_shot_bytes, fitting.grid, fitting.block)

    def algorithm(self, nbytes: int) -> str:
        """Its name: one of ALGORITHMS."""
        return ALGORITHMS[2 * self.put + (nbytes >= self.two_shot_bytes)]


def choose(pe, algorithm: "str | Choice" = "auto", team=None) -> Choice:
    """The choice for a team (all PEs by default); its PE 0 logs it, once. Collective over the team.

    algorithm : one of NAMES. "auto" follows SHMEMTP_ALGORITHM; else it takes packets where all PEs have P2P reach, put
        otherwise, and the size for two-shot from the table that `shmemtp tune` measured, or a built-in one. "packets"
        is another name of one-shot, "put" of one-shot-put. A Choice is taken as it is.

    InputError on all PEs if they ask for different ones, for one that is not there, or for one that cannot run here.
    """
    team = team or pe.team
    name = agree(team.comm, "algorithms", _asked_for(algorithm))
    if isinstance(name, Choice):
        return name
    topology = pe.topology.of(team.pes)
    if name not in NAMES:
        raise InputError(f"there is no algorithm {name!r}: choose one of {', '.join(NAMES)}")
    measured = team.comm.bcast(read_table(topology) if team.rank == 0 else None)
    choice = select(topology, name, team.distances is not None, measured)
    if team.rank == 0 and team.size > 1:
        _say_once(f"collectives of {team.size} PEs: {choice.reason}")
    return choice


def _asked_for(algorithm):
    return os.environ.get("SHMEMTP_ALGORITHM") or "auto" if algorithm == "auto" else algorithm


@functools.cache
def _say_once(line):
    LOG.info("%s", line)


def select(topology: Topology, name: str, direct: bool, measured: Sequence[Measurement] | None = None) -> Choice:
    """`choose` for a topology and a table that are known. `direct`: packets reach every PE."""
    forced = SYNONYMS.get(name, name)
    if forced in ("one-shot", "two-shot") and not direct:
        raise InputError(f"{name} needs P2P reach between all PEs, and {_unreached(topology)}: use {forced}-put")
    put = not direct if forced == "auto" else forced.endswith("-put")
    one, two = (_fastest(measured or (), ALGORITHMS[2 * put + shots]) for shots in (False, True))
    if forced != "auto":
        cut, how = 0 if forced.startswith("two-shot") else NEVER, f"{forced}, as asked for"
    else:
        why = f"put_signal, for {_unreached(topology)}" if put else "packets"
        cut, how = _cut(topology.pes, one, two)
        how = f"{why}; {how}"
    rows = [(two if size >= cut else one).get(size) for size in sorted(one.keys() | two.keys())]
    launches = tuple(Launch(row.bytes, row.grid, row.block) for row in rows if row)
    return Choice(put, cut, launches or (EMULATOR_LAUNCHES if topology.gpu == "emulator" else LAUNCHES), how)


def _unreached(topology):
    pair = topology.without_reach()
    if pair is None:
        return "NVSHMEM maps no memory of peers"
    return f"PE {pair[0]} does not reach the memory of PE {pair[1]} ({topology.links[pair[0]][pair[1]]})"


def _fastest(measured, algorithm) -> dict[int, Measurement]:
    """Bytes -> the fastest launch of an algorithm."""
    rows = [row for row in measured if row.algorithm == algorithm]
    return {row.bytes: row for row in sorted(rows, key=lambda row: -row.us)}


def _cut(pes, one, two) -> tuple[int, str]:
    """(bytes from which two-shot is taken, how that is known).

    Of measured times, the one cut through all sizes that loses least: noise at a size or two does not move it far.
    """
    sizes = sorted(one.keys() & two.keys())
    if not sizes:
        cut = TWO_SHOT_BYTES[max(known for known in TWO_SHOT_BYTES if known <= pes)]
        return cut, f"{_spell(cut)}, by the built-in table (`shmemtp tune` measures this machine)"
    lost = [math.log(one[size].us / two[size].us) for size in sizes]  # where one-shot is taken
    below = min(range(len(sizes) + 1), key=lambda n: sum(lost[:n]))
    cut = NEVER if below == len(sizes) else sizes[below] // 2 + 1  # a size speaks for the messages down to its half
    return cut, f"{_spell(cut)}, as `shmemtp tune` measured"


def _spell(cut):
    return "always one-shot" if cut == NEVER else f"two-shot from {cut / 1024:.4g} KiB on"
