"""Collectives in a persistent kernel, and as calls of the host in CUDA graphs beside NCCL's and torch's own.

    mpirun -n 8 python scripts/bench_collectives.py -b 1K -e 1M -f 2 --json FILE --plot FILE.png

"kernel" is a collective by all blocks of a kernel that does nothing else, by the device's clock: no launch, and each
block has its share of the result. "graph" is a call from the host, many of them in one CUDA graph (in the emulator
"host", by the host's clock). The last column compares graphs with graphs: the best contender's time over ours.
"""

import numpy as np
from contest import BLOCKS, Contest
from inputs import STORED
from operations import OPERATIONS
from options import one_of, parser, sizes, start
from report import Report, Row

import shmemtp
from shmemtp.algorithm import ALGORITHMS

NAMES = (*OPERATIONS, "all_to_all_v", "barrier")  # the last two in kernels only
ONE_BLOCK_BYTES = 64 << 10  # up to where one block alone is measured too


def parse(argv):
    flags = parser(__doc__, minbytes=1 << 10, maxbytes=1 << 20, stepfactor=2, datatype="bfloat16")
    flags.add_argument("--operation", type=one_of(NAMES), default=list(NAMES), metavar="A,B", help="all_reduce, ...")
    algorithms = one_of(("auto", *ALGORITHMS))
    flags.add_argument("--algorithm", type=algorithms, metavar="A,B", help="auto, one-shot, two-shot-put, ... (all)")
    return flags.parse_args(argv)


class Bench:
    """One operation and size after the other; all PEs call its methods."""

    def __init__(self, pe, options):
        self.pe, self.options, self.contest = pe, options, Contest(pe, options, [*ALGORITHMS, "auto"])

    def rows(self, name, nbytes):
        """All contenders."""
        itemsize, pes = np.dtype(STORED[self.options.datatype]).itemsize, self.pe.size
        operation = OPERATIONS.get(name, OPERATIONS["all_to_all"])
        count = operation.count(nbytes // itemsize, pes) if nbytes else 0
        parts = pes if operation.given or operation.taken else 1
        common = (name, count * itemsize * parts, count, self.options.datatype, operation.redop, operation.traffic(pes))
        yield from self.in_kernels(name, count, count * itemsize, common)
        if name in OPERATIONS and self.options.launches:
            yield from self.from_host(operation, count, common)

    def in_kernels(self, name, count, nbytes, common):
        kernels = self.contest.kernels
        for algorithm in self.algorithms(name):
            comm = None if algorithm == "auto" else self.contest.communicator(algorithm)
            if comm is None and algorithm != "auto":
                yield Row(*common, f"kernel, {algorithm}", note="no P2P reach")
            for grid, block, told in self.launches(comm, name, nbytes) if comm else ():
                row = Row(*common, f"kernel, {algorithm}{told}", launch=f"{grid}x{block}")
                if name == "barrier":
                    row.times, row.wrong = kernels.barrier(comm, grid, block)
                elif name == "all_to_all_v":
                    row.times, row.wrong = kernels.all_to_all_v(comm, count, grid, block)
                else:
                    row.times, row.wrong = kernels.collective(comm, OPERATIONS[name], count, grid, block)
                yield row

    def algorithms(self, name):
        """Only an all-reduce has two shots."""
        return [each for each in self.contest.algorithms if name == "all_reduce" or not each.startswith("two-shot")]

    def launches(self, comm, name, nbytes):
        """(blocks, threads, what to call it): the one asked for, or the table's for this size, and one block alone."""
        one = (1, BLOCKS[self.pe.backend])
        if name == "barrier":
            grid = (self.pe.device.multiprocessors, one[1])
        else:
            _, *grid = comm.choice.row(nbytes)
        grid = tuple(self.options.launch or grid)
        if grid[0] > 1:
            yield *grid, ""
        if nbytes <= ONE_BLOCK_BYTES:
            yield *(grid if grid[0] == 1 else one), ", one block"

    def from_host(self, operation, count, common):
        calls, type = self.contest.calls, self.options.datatype
        for algorithm in self.algorithms(operation.name):
            yield self.contest.ours(common, algorithm, lambda comm: calls.collective(comm, operation, count))
        yield from self.contest.theirs(
            common,
            lambda contenders: contenders.of(operation.name, type, count),
            lambda peer: calls.peer(peer, operation, count),
        )


def main(argv):
    options = parse(argv)
    groups = [(name, nbytes) for name in options.operation for nbytes in ([0] if name == "barrier" else sizes(options))]
    with shmemtp.init() as pe:
        bench = Bench(pe, options)
        with Report("collectives", pe, options, len(groups)) as report:
            for group in groups:
                report.add(list(bench.rows(*group)))
        bench.contest.close()


if __name__ == "__main__":
    start(main)
