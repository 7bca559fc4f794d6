"""How much of the memory must be asked for at once, and how late it then answers others.

    python scripts/bench_stream.py --json FILE

Blocks stream device memory into shared memory, as the decode kernel's weights do, with so many KiB of each
multiprocessor under way. Meanwhile one more warp of each block loads words that are in the L2, one after another, and
then sends words to another block and back. Cycles are the multiprocessor's. One PE; others look on.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from stream_kernel import APART, ASKED, DEPTH, PACKETS, SHARED_BYTES, STREAMERS, TILE, Streaming, stream_and_ask

import shmemtp

UNDER_WAY = (  # warps that stream, copies of each, and every which block has such warps
    *((warps, 1, 1) for warps in (0, 4, 6, 8, 10, 12, STREAMERS)),
    *((STREAMERS, depth, 1) for depth in range(2, DEPTH + 1)),
    (STREAMERS, DEPTH, 2),
)
MIB = 1 << 20


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("auto", "gpu", "emulator"), default="auto")
    parser.add_argument("--microseconds", type=int, default=300, help="how long each row streams (%(default)s)")
    parser.add_argument(
        "--mib", type=int, default=2048, help="of memory that is streamed; 16 stay in the L2 (%(default)s)"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args(argv)


def measure(pe, tiles, warps, depth, every, nanoseconds):
    """A row: what one launch found, the second one's (the first one's may wait for its code)."""
    device = pe.device
    grid, lanes = (device.multiprocessors // 4 * 4, device.warp_size) if pe.backend == "gpu" else (4, 1)
    words = device.array(4 * PACKETS, np.uint32)
    streaming = Streaming(warps, depth, every, nanoseconds // 6, nanoseconds)
    for _ in range(2):
        flags = device.array(grid * APART, np.int64)
        loads, trips = device.array(grid * ASKED, np.int64), device.array(grid * ASKED, np.int64)
        counts = device.array(grid * STREAMERS, np.int64)
        args = (streaming, tiles, words, flags, loads, trips, counts)
        pe.run(stream_and_ask, grid, (STREAMERS + 1) * lanes, *args, shared_bytes=SHARED_BYTES, warp=lanes)
    trips = trips.numpy()
    return {
        "kib_under_way": 2 * TILE * warps * depth >> 10,
        "streaming": "all blocks" if every == 1 else "every second block",
        "tb_s": int(counts.numpy().sum()) * 2 * TILE / nanoseconds / 1e3,
        "load": summary(loads.numpy()),
        "round_trip": summary(trips[trips >= 0]),
    }


def summary(cycles):
    """Median and 90th percentile; none where there was no time for any."""
    return [float(np.percentile(cycles, q)) for q in (50, 90)] if len(cycles) else []


def told(row):
    figures = "  ".join(
        f"{name.replace('_', ' ')} " + (f"{row[name][0]:6.0f} (p90 {row[name][1]:6.0f})" if row[name] else "none")
        for name in ("load", "round_trip")
    )
    return f"{row['kib_under_way']:4d} KiB, {row['streaming']}: {row['tb_s']:6.3f} TB/s  {figures} cycles"


def main(argv=None):
    options = parse(argv)
    nanoseconds = 1000 * options.microseconds
    with shmemtp.init(options.backend) as pe:
        if pe.rank == 0:
            tiles = pe.device.array((options.mib if pe.backend == "gpu" else 1) * MIB // 2, np.uint16)
            rows = []
            for warps, depth, every in UNDER_WAY:
                rows.append(measure(pe, tiles, warps, depth, every, nanoseconds))
                print(told(rows[-1]), flush=True)
            if options.json:
                found = {"device": pe.device.name, "rows": rows}
                options.json.write_text(json.dumps(found, indent=1) + "\n")
        pe.barrier()


if __name__ == "__main__":
    main()
