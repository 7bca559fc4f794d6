"""Latency and bandwidth of put, get, put_signal and signal between two PEs, raw and through NVSHMEM.

    mpirun -n 2 python scripts/bench_put.py -b 16 -e 64M -f 4 --json FILE --plot FILE.png

PE 0 does it, PE 1 is the other end, a persistent kernel's own clock times it. "raw" is loads and stores of the peer's
memory, "nvshmem" NVSHMEM's own functions. Latency of put and get: until a message is complete, one after another; of
put_signal and signal: half of a message there and one back. Bandwidth: messages one after another that are completed
together; beside it the driver's copies between the same places.
"""

import itertools
from functools import partial

import put_kernels as kernels
from measure import Kernels, time_calls
from options import MOST_THREADS, one_of, parser, sizes, start
from put_ends import Ends
from report import Report, Row

import shmemtp
from shmemtp.device import Constants
from shmemtp.errors import InputError

OPERATIONS = {"put": kernels.PUT, "get": kernels.GET, "put_signal": kernels.PUT_SIGNAL, "signal": kernels.SIGNAL}
SCOPES = {"thread": kernels.THREAD, "warp": kernels.WARP, "block": kernels.BLOCK, "grid": kernels.GRID}
TRANSPORTS = ("raw", "nvshmem")
MOST_BYTES = {"thread": 64 << 10, "warp": 1 << 20, "block": 16 << 20, "grid": 1 << 62}  # larger ones take too long
LATENCY_BYTES = 64 << 10
SIGNAL_BYTES = 8


def parse(argv):
    usual = {"minbytes": 16, "maxbytes": 64 << 20, "stepfactor": 4, "datatype": "float"}
    flags = parser(__doc__, **usual, iters=50, warmup_iters=100, repeats=50, launches=20)
    flags.add_argument("--operation", type=one_of(OPERATIONS), default=list(OPERATIONS), metavar="A,B", help="put, ...")
    flags.add_argument("--scope", type=one_of(SCOPES), default=list(SCOPES), metavar="A,B", help="thread, warp, ...")
    return flags.parse_args(argv)


def plan(options):
    """(operation, what of it, bytes, scopes) of each group of rows."""
    wanted = list(dict.fromkeys(max(16, nbytes // 16 * 16) for nbytes in sizes(options)))
    for operation in options.operation:
        scopes = [scope for scope in options.scope if scope != "grid"]
        for nbytes in [SIGNAL_BYTES] if operation == "signal" else wanted:
            if nbytes <= LATENCY_BYTES and scopes:
                yield operation, "latency", nbytes, scopes
        for nbytes in [] if operation == "signal" else wanted:
            scopes = [scope for scope in options.scope if nbytes <= MOST_BYTES[scope]]
            if scopes:
                yield operation, "bandwidth", nbytes, scopes


class Bench:
    """Measures one PE's transfers to another; all PEs call its methods."""

    def __init__(self, pe, options):
        self.pe, self.options, self.kernels, self.watch = pe, options, Kernels(pe, options), pe.watch()
        warp, block = (32, MOST_THREADS) if pe.backend == "gpu" else (2, 4)
        grid, block = options.launch or (pe.device.multiprocessors, block)
        self.launches = {"thread": (1, 1, 1), "warp": (1, warp, warp), "block": (1, block, warp)}
        self.launches["grid"] = (grid, block, warp)
        self.comm = pe.communicator(lanes=grid)
        self.ends = Ends(pe, max(SIGNAL_BYTES, options.maxbytes), options.datatype, grid)
        self.shapes = {
            (operation, transport): Constants(operation=number, raw=transport == "raw")
            for operation, number in OPERATIONS.items()
            for transport in TRANSPORTS
        }

    def rows(self, operation, what, nbytes, scopes):
        """All contenders, at one size."""
        rows = [
            self.transfers(operation, what, nbytes, transport, scope) for transport in TRANSPORTS for scope in scopes
        ]
        return rows + ([self.copies(operation, nbytes)] if what == "bandwidth" and self.options.launches else [])

    def transfers(self, operation, what, nbytes, transport, scope):
        row = self._row(operation, what, nbytes, f"{transport}, {scope}")
        if transport == "raw" and self.ends.distance is None:
            row.note = "no P2P reach"
            return row
        self.ends.prepare(operation, nbytes)
        latency, (grid, block, warp) = what == "latency", self.launches[scope]
        both = latency and operation in ("put_signal", "signal")
        kernel, args = kernels.transfer_rounds, (int(latency), kernels.Pace, self.comm.argument)
        if both:
            kernel = kernels.ping_pong_rounds
            args = (int(self.pe.rank == 0), kernels.Pace, self.watch.argument, self.pe.rank)
        args = (self.shapes[operation, transport], SCOPES[scope], self.ends.wire(nbytes), *args)
        check = partial(self.watch.check, kernel.__name__)
        row.times = self.kernels.time(kernel, grid, block, args, check, warp, pes=1 + both) / (1 + both)
        if operation != "signal":
            row.wrong = self.ends.wrong(operation, nbytes, self.kernels.rounds, both)
        return row

    def copies(self, operation, nbytes):
        row = self._row(operation, "bandwidth", nbytes, Ends.COPIES[self.pe.backend])
        row.peer = True
        if self.ends.distance is None:
            row.note = "no P2P reach"
            return row
        self.ends.prepare(operation, nbytes)
        numbers = itertools.cycle(range(self.options.iters))

        def start_copy():
            if self.pe.rank == 0:
                self.ends.start_copy(operation, next(numbers), nbytes)

        replay = self.pe.device.replay(start_copy, self.options.iters)
        row.times = time_calls(self.pe, replay, self.options)
        row.wrong = self.ends.wrong(operation, nbytes, self.options.iters, both=False)
        return row

    def _row(self, operation, what, nbytes, contender):
        count, against = nbytes // self.ends.item_bytes, what if what == "bandwidth" else None
        return Row(f"{operation} {what}", nbytes, count, self.options.datatype, "none", 1.0, contender, against)


def main(argv):
    options = parse(argv)
    groups = list(plan(options))
    with shmemtp.init() as pe:
        if pe.size < 2:
            raise InputError("bench_put measures between two PEs: mpirun -n 2")
        bench = Bench(pe, options)
        with Report("put", pe, options, len(groups)) as report:
            for group in groups:
                report.add(bench.rows(*group))


if __name__ == "__main__":
    start(main)
