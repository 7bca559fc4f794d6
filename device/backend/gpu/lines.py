"""Lines of 128 bytes that half a warp stores at once and that arrive whole. The contract is in ../README.md.

As NCCL's LL128 protocol, this stands on what PTX does not promise, and NVLink, the caches and the assembler do: half a
warp that has just met runs one instruction, whose stores to one line travel together, as does what it loads from one.
tests/pes/test_lines.py looks for a line that did not.
"""

from numba import cuda

from .vectors import load_half, store_half
from .words import function, int32, int64, lane_index, uint32

__all__ = ["LINE_THREADS", "LINE_WORDS", "load_from_line", "of_last_in_line", "store_in_line", "sync_line"]

LINE_THREADS = 16
LINE_WORDS = 32
HALF_WARP = 0xFFFF
LAST = 15


@function
def _half_warp():
    return uint32(HALF_WARP << (lane_index() & LINE_THREADS))


@function
def sync_line():
    cuda.syncwarp(_half_warp())


@function
def store_in_line(array, i, position, a, b, tag):
    if position == LAST:
        a = b = tag
    sync_line()
    store_half(array, i + 2 * position, a, b)


@function
def load_from_line(array, i, position, tag):
    a, b = load_half(array, i + 2 * position)
    return a, b, uint32(cuda.shfl_sync(_half_warp(), int32(b), int32(lane_index() | LAST)))


@function
def of_last_in_line(value):
    return cuda.shfl_sync(_half_warp(), int64(value), int32(lane_index() | LAST))
