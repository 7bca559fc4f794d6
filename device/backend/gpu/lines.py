"""Lines of 128 bytes that arrive whole, of which a warp stores two at once. The contract is in ../README.md.

As NCCL's LL128 protocol, this stands on what PTX does not promise, and NVLink, the caches and the assembler do: a warp
that has just met runs one instruction, whose stores to one line travel together, as does what it loads from one.
tests/pes/test_lines.py looks for a line that did not.
"""

from numba import cuda

from .vectors import load_half, store_half
from .words import FULL_WARP, function

__all__ = ["LINE_THREADS", "LINE_WORDS", "all_in_line", "load_from_line", "store_in_line", "sync_line"]

LINE_THREADS = 32  # two lines: where half a warp is named, the compiler asks in each place who is there (MATCH, REDUX)
LINE_WORDS = 32
LAST = 15


@function
def sync_line():
    cuda.syncwarp(FULL_WARP)


@function
def store_in_line(array, i, position, a, b, tag):
    if position == LAST:
        a = b = tag
    sync_line()
    store_half(array, i + 2 * position, a, b)


@function
def load_from_line(array, i, position, tag):
    a, b = load_half(array, i + 2 * position)
    return a, b, b if position == LAST else tag


@function
def all_in_line(value):
    return cuda.all_sync(FULL_WARP, value)
