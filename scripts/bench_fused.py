"""All-reduce, residual add and RMSNorm in one: in a persistent kernel, and as a call of the host in CUDA graphs.

    mpirun -n 8 python scripts/bench_fused.py -b 4K -e 16K --json FILE --plot FILE.png

A size is that of the hidden state, one vector. "kernel": all blocks of a kernel together; a round ends when every block
has the whole normalised vector in its shared memory. "graph": `all_reduce_norm` from the host, many calls in one CUDA
graph (in the emulator "host"); beside it another library's all-reduce with torch's add and norm behind.
"""

import numpy as np
from contest import BLOCKS, Contest
from inputs import STORED
from norm_vectors import EPS, ROUNDING
from options import number, one_of, parser, sizes, start
from report import Report, Row

import shmemtp
from shmemtp.channel import KEPT
from shmemtp.communicator import MOST_HIDDEN, PACKET
from shmemtp.device.backend.shape import MOST_OF_A_CLUSTER
from shmemtp.errors import InputError

CLUSTERS = {"gpu": 4, "emulator": 2}  # blocks of one where no flag says it
ALGORITHMS = ("one-shot", "one-shot-put")  # a vector goes in one shot


def parse(argv):
    flags = parser(__doc__, tuple(ROUNDING), minbytes=8 << 10, maxbytes=8 << 10, stepfactor=2, datatype="bfloat16")
    algorithms = one_of(("auto", *ALGORITHMS))
    flags.add_argument("--algorithm", type=algorithms, metavar="A,B", help="one-shot, one-shot-put, auto (all)")
    flags.add_argument("--cluster", type=number(1), metavar="N", help="blocks of a cluster, at most 8 (on GPUs 4)")
    options = flags.parse_args(argv)
    hidden = [nbytes // np.dtype(STORED[options.datatype]).itemsize for nbytes in sizes(options)]
    if any(nbytes > MOST_HIDDEN or nbytes % PACKET for nbytes in sizes(options)):
        raise InputError(f"a hidden state has {PACKET} to {MOST_HIDDEN} bytes, a multiple of {PACKET}")
    if (options.cluster or 1) > MOST_OF_A_CLUSTER:
        raise InputError(f"a cluster has at most {MOST_OF_A_CLUSTER} blocks, not {options.cluster}")
    if options.launch and options.launch[0] > most_blocks(options.minbytes):
        raise InputError(f"at most {most_blocks(options.minbytes)} blocks can share {options.minbytes} bytes")
    if options.launch and options.launch[1] * PACKET * KEPT < options.maxbytes:
        raise InputError(f"{options.launch[1]} threads keep {options.launch[1] * PACKET * KEPT} bytes of a vector")
    return options, hidden


def most_blocks(nbytes):
    """Of a kernel that shares a vector: each does 64 bytes of it at least."""
    return max(1, nbytes // 64)


def threads_for(pe, nbytes):
    """Of a kernel's block: as few as hold the vector in their registers, 256 at least."""
    return min(BLOCKS[pe.backend], max(256, nbytes // (8 * KEPT)))


def launch_for(contest, comm, hidden, nbytes, cluster):
    """(blocks, threads): as many clusters as the devices have room for."""
    block = threads_for(contest.pe, nbytes)
    clusters = contest.kernels.norm_clusters(comm, hidden, block, cluster)
    return cluster * max(1, min(clusters, most_blocks(nbytes) // cluster)), block


def rows(contest, hidden):
    """All contenders, for vectors of so many elements."""
    pe, options = contest.pe, contest.options
    nbytes = hidden * np.dtype(STORED[options.datatype]).itemsize
    common = ("all_reduce_norm", nbytes, hidden, options.datatype, "sum", 2 * (pe.size - 1) / pe.size)
    cluster = options.cluster or min(CLUSTERS[pe.backend], most_blocks(nbytes))
    for algorithm in contest.algorithms:
        if algorithm == "auto":
            continue  # in a kernel that is one of the others
        comm = contest.communicator(algorithm, (hidden, "kernel"))
        row = Row(*common, f"kernel, {algorithm}", note="" if comm else "no P2P reach")
        if comm:
            grid, block = options.launch or launch_for(contest, comm, hidden, nbytes, cluster)
            row.launch = f"{grid}x{block}, clusters of {cluster}"
            row.times, row.wrong = contest.kernels.all_reduce_norm(comm, hidden, grid, block, cluster)
        yield row
    if options.launches:
        for algorithm in contest.algorithms:
            yield contest.ours(common, algorithm, lambda comm: contest.calls.all_reduce_norm(comm, hidden))
        yield from contest.theirs(
            common,
            lambda contenders: contenders.of_norm(options.datatype, hidden, EPS),
            lambda peer: contest.calls.norm_peer(peer, hidden),
        )


def main(argv):
    options, hidden = parse(argv)
    with shmemtp.init() as pe:
        contest = Contest(pe, options, [*ALGORITHMS, "auto"])
        with Report("fused", pe, options, len(hidden)) as report:
            for each in hidden:
                report.add(list(rows(contest, each)))
        contest.close()


if __name__ == "__main__":
    start(main)
