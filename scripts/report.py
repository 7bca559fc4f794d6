"""What the microbenchmarks found: a table with nccl-tests' columns, a JSON file, a picture."""

import json
import os
import sys
from dataclasses import dataclass

import numpy as np
from picture import draw, pyplot
from tqdm import tqdm

from shmemtp.errors import ShmemtpError
from shmemtp.world import launcher

HEADS = "size(B) count type redop time(us) algbw(GB/s) busbw(GB/s) #wrong p1 p99 contender ratio".split()
WIDTHS = (12, 12, 9, 6, 10, 11, 11, 7, 9, 9, 36, 6)
CONTENDER = HEADS.index("contender")


@dataclass
class Row:
    """One contender at one size.

    times: microseconds of a call, one for each timed part, the slowest PE's; None where it was not measured, and `note`
    says why. launch: "8x128", of a kernel. traffic: busbw over algbw, as nccl-tests has it. Rows of one operation and
    size that name the same `against` are compared: ours with the best `peer`.
    """

    operation: str
    size: int
    count: int
    type: str
    redop: str
    traffic: float
    contender: str
    against: str | None = None
    peer: bool = False
    times: np.ndarray | None = None
    wrong: int = 0
    launch: str = ""
    note: str = ""
    ratio: float | None = None

    def time(self, percent=50):
        return None if self.times is None else float(np.percentile(self.times, percent))

    def record(self):
        """What the JSON file says of it."""
        bandwidth = self.size / self.time() / 1e3 if self.time() else None
        return {
            "operation": self.operation,
            "size": self.size,
            "count": self.count,
            "type": self.type,
            "redop": self.redop,
            "time_us": self.time(),
            "algbw": bandwidth,
            "busbw": bandwidth and bandwidth * self.traffic,
            "wrong": None if self.times is None else self.wrong,
            "p1_us": self.time(1),
            "p99_us": self.time(99),
            "contender": self.contender,
            "launch": self.launch,
            "ratio": self.ratio,
            "note": self.note,
        }

    def cells(self):
        record = self.record()
        found = [_cell(record[name]) for name in ("time_us", "algbw", "busbw", "wrong", "p1_us", "p99_us")]
        told = " ".join(filter(None, (self.contender, self.launch))) + (f": {self.note}" if self.note else "")
        return [str(self.size), str(self.count), self.type, self.redop, *found, told, _cell(self.ratio)]


def _cell(number):
    return "-" if number is None else str(number) if isinstance(number, int) else f"{number:.2f}"


def set_ratios(rows):
    """Gives ours the best peer's time over their own (2: twice as fast). All rows are of one operation and size."""
    for row in rows:
        peers = [p.time() for p in rows if p.peer and p.times is not None and p.against == row.against]
        if peers and row.against and not row.peer and row.times is not None:
            row.ratio = min(peers) / row.time()


class Report:
    """Prints rows on rank 0 as they come, on a terminal with a bar of `total` groups, and writes the files."""

    def __init__(self, name, pe, options, total):
        self._name, self._pe, self._options, self._rows = name, pe, options, []
        self._first = pe.rank == 0
        if options.plot and self._first:
            pyplot()  # told before the measuring, not after
        self._bar = tqdm(total=total, desc=name, leave=False, disable=not (self._first and on_terminal()))

    def add(self, rows):
        """All contenders' rows of one operation and size."""
        set_ratios(rows)
        lines = [_line(row.cells()) for row in rows]
        if not self._rows or self._rows[-1].operation != rows[0].operation:
            lines[:0] = ["", f"# {rows[0].operation}: {self._pe.size} PEs, {self._pe.device.name}", _line(HEADS)]
        self._rows += rows
        if self._first:
            tqdm.write("\n".join(lines))
            sys.stdout.flush()
        self._bar.update()
        if self._first and self._options.json:  # now: what comes after may fail
            self._options.json.write_text(json.dumps(self._record(), indent=1) + "\n")

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self._bar.close()
        if kind is None and self._first and self._options.plot:
            draw(self._rows, self._options.plot, f"{self._pe.size} PEs, {self._pe.device.name}")
        wrong = sum(row.wrong > 0 for row in self._rows)
        if kind is None and wrong:
            raise ShmemtpError(f"{wrong} of {len(self._rows)} rows have wrong elements")

    def _record(self):
        return {
            "benchmark": self._name,
            "pes": self._pe.size,
            "backend": self._pe.backend,
            "device": self._pe.device.name,
            "torch": getattr(sys.modules.get("torch"), "__version__", None),
            "options": {name: str(value) for name, value in vars(self._options).items() if value is not None},
            "rows": [row.record() for row in self._rows],
        }


def _line(cells):
    each = enumerate(zip(cells, WIDTHS, strict=True))
    return " ".join(f"{cell:<{width}}" if n == CONTENDER else f"{cell:>{width}}" for n, (cell, width) in each)


def on_terminal():
    """Whether a person looks on: mpirun stands between a PE and its terminal, and is the PE's parent."""
    if launcher().size == 1:
        return sys.stderr.isatty()
    try:
        return os.readlink(f"/proc/{os.getppid()}/fd/2").startswith(("/dev/pts/", "/dev/tty"))
    except OSError:
        return False
