"""Lines for the host's threads (see ../README.md): no store of theirs takes 128 bytes, so each position is a packet."""

from .context import function
from .vectors import load_packet, store_packet

__all__ = ["LINE_THREADS", "LINE_WORDS", "all_in_line", "load_from_line", "store_in_line", "sync_line"]

LINE_THREADS = 1
LINE_WORDS = 64


@function
def store_in_line(array, i, position, a, b, tag):
    store_packet(array, i + 4 * position, a, tag, b, tag)


@function
def load_from_line(array, i, position, tag):
    a, first, b, second = load_packet(array, i + 4 * position)
    return a, b, second if first == tag else first


@function
def all_in_line(value):
    return value


@function
def sync_line():
    pass
