"""`shmemtp tune`: which algorithm and launch is fastest for each size of message, measured on this machine."""

import numpy as np
from tqdm import tqdm

from .algorithm import ALGORITHMS, NEVER, Choice, Launch, select
from .communicator import LANES
from .errors import InputError, ShmemtpError
from .runtime import init
from .table import Measurement, write_table
from .world import join

__all__ = ["measure", "report", "run", "shapes"]

SMALLEST = 1 << 10  # bytes of a message
CALLS = 20  # of a timed part
PACKET_BYTES = 8  # of data
RUN = 8  # packets that a block is dealt together (device/communicator.py)
GRIDS, BLOCKS = (16, 32, 64), (64, 128, 256, 384, 512)  # blocks, and their threads
MOST_OF_A_THREAD, FEWEST_OF_A_THREAD = 8, 1 / 8  # packets, where there are enough


def run(options, answer):
    """Measures, writes the table of this machine, and prints it to `answer` on PE 0. Collective."""
    if join().size == 1:
        raise InputError("tune measures how PEs communicate: start at least two, as mpirun -n 2 shmemtp tune does")
    with init(options.backend, options.bootstrap) as pe:
        sizes = [SMALLEST << n for n in range((options.max_bytes // SMALLEST).bit_length())]
        measured = measure(pe, sizes, options.repeats)
        with pe.together:
            if pe.rank == 0:
                report(pe, sizes, measured, answer)


def shapes(nbytes: int, most: int, warp: int) -> set[tuple[int, int]]:
    """The (grid, block) with which a PE's share of so many bytes is tried; `most` blocks run at once.

    A block has a line of packets at least, a thread a few at most, and few threads have none; in the emulator (warps of
    one thread) a block is one thread.
    """
    if warp == 1:
        return {(1, 1), (most, 1)}
    packets = max(1, nbytes // PACKET_BYTES)
    useful = min(most, max(1, packets // RUN))
    grids = {min(grid, useful) for grid in (*GRIDS, most)}
    tried = {(grid, block): packets / (grid * block) for grid in grids for block in BLOCKS}
    most_each = max(MOST_OF_A_THREAD, min(tried.values()))
    fitting = {launch for launch, each in tried.items() if FEWEST_OF_A_THREAD <= each <= most_each}
    return fitting or {(useful, BLOCKS[0])}


def measure(pe, sizes, repeats: int) -> list[Measurement]:
    """Of each algorithm that can run here and each size, the fastest launch: the same on all PEs. Collective."""
    device, direct = pe.device, pe.heap.distances is not None
    blocks = min(device.multiprocessors, LANES)
    names = [name for name in ALGORITHMS if direct or name.endswith("-put")]
    tried: dict[tuple[str, int, int], list[int]] = {}  # algorithm, grid, block: sizes
    for name in names:
        parts = pe.size if name.startswith("two-shot") else 1
        for size in sizes:
            for grid, block in sorted(shapes(size // parts, blocks, device.warp_size)):
                tried.setdefault((name, grid, block), []).append(size)
    best: dict[tuple[str, int], Measurement] = {}
    total = sum(map(len, tried.values()))
    with tqdm(total=total, desc="measuring", unit="launch", mininterval=1, disable=pe.rank != 0) as bar:
        for launch, launched in tried.items():
            for row in _measure_launch(pe, *launch, launched, repeats):
                key = (row.algorithm, row.bytes)
                best[key] = min(best.get(key, row), row, key=lambda row: row.us)
                bar.update()
    return [best[name, size] for size in sizes for name in names]


def _measure_launch(pe, name, grid, block, sizes, repeats):
    """A Measurement of each of the sizes."""
    forced = Choice(name.endswith("-put"), 0 if name.startswith("two-shot") else NEVER, (Launch(NEVER, grid, block),))
    with pe.communicator(algorithm=forced) as comm:
        for size in sizes:
            with pe.array(size // 2, "uint16") as array:  # bf16
                comm.all_reduce(array)
                replay = pe.device.replay(lambda array=array: comm.all_reduce(array, stream=pe.device.stream), CALLS)
                us = _microseconds(pe, replay, repeats)
                comm.check()
                yield Measurement(size, name, grid, block, us)


def _microseconds(pe, replay, repeats) -> float:
    """The median of a call's time; of each part, the time of the PE that took longest."""
    seconds = []
    for _ in range(repeats):
        pe.barrier()
        seconds.append(replay.seconds())
    slowest = np.max(pe.comm.allgather(seconds), axis=0)
    return round(float(np.median(slowest)) / CALLS * 1e6, 3)


def report(pe, sizes, measured, answer):
    """Writes the table of this machine, prints it to `answer`, and says where it is."""
    try:
        path = write_table(pe.topology, measured)
    except OSError as error:
        raise ShmemtpError(f"the table cannot be written: {error}") from error
    choice = select(pe.topology, "auto", pe.heap.distances is not None, measured)
    names = [name for name in ALGORITHMS if any(row.algorithm == name for row in measured)]
    print(f"{'bytes':>9}", *(f"{name + ', us':>18}{'launch':>9}" for name in names), "  taken", file=answer)
    rows = {(row.bytes, row.algorithm): row for row in measured}
    for size in sizes:
        cells = [rows[size, name] for name in names]
        told = [f"{cell.us:18.2f}{f'{cell.grid}x{cell.block}':>9}" for cell in cells]
        print(f"{size:9}", *told, f"  {choice.algorithm(size)}", file=answer)
    print(f"written to {path}", file=answer, flush=True)
