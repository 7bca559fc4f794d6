"""A block's work in a collective: which packets of a message it does, and how many an exchange takes of them.

Numbers are of 32 bits where they suffice, and `while` deals out what a block's threads share: see communicator.py.
"""

from collections import namedtuple

from .backend import LINE_THREADS, block_size, function, int64, uint32
from .communicator import PLACE_BITS, PLACES, RUN, RUN_BITS
from .element import elements_of_packet


@function
def divide_up(count, parts):
    """count / parts, rounded up; their sum below 2^32: a 64-bit division takes long on a GPU."""
    return uint32(uint32(count + parts - 1) // uint32(parts))


Work = namedtuple("Work", "packets part parts in_lines")
Work.__doc__ = """A message's packets, of which a block does part `part` of `parts`: runs of packets, or lines, in turn.

in_lines: the packets' data travel in lines that arrive whole (lines.py), or each packet for itself. The block counts
its packets by `number`; of each 16 numbers of a line the last one is the tag's.
"""


@function
def goes_in_lines(lane, kind, count):
    """Whether a message of so many elements does (block). Asked once: code for both in a loop would slow each."""
    return count * (8 // elements_of_packet(kind)) >= lane.shape.line_bytes and block_size() & (LINE_THREADS - 1) == 0


@function
def share(kind, count, part, parts, in_lines):
    """The Work of a block that does part `part` of `parts` of a message of `count` elements (block)."""
    return Work(divide_up(count, elements_of_packet(kind)), part, parts, in_lines)


@function
def packet_of(work, number):
    """The message's packet that is the block's `number`-th; `work.packets` or more where there is none (thread)."""
    if work.in_lines:
        line = uint32(uint32(number >> PLACE_BITS) * uint32(work.parts) + uint32(work.part))
        place = uint32(number & (PLACES - 1))
        return work.packets if place == PLACES - 1 else uint32(line * uint32(PLACES - 1) + place)
    run = uint32(uint32(number >> RUN_BITS) * uint32(work.parts) + uint32(work.part))
    return uint32(uint32(run << uint32(RUN_BITS)) | uint32(number & (RUN - 1)))


@function
def capacity(lane, work):
    """How many numbers of a block's packets an exchange takes (thread)."""
    return lane.shape.lines << PLACE_BITS if work.in_lines else lane.shape.packets


@function
def is_due(lane, work, begun, number):
    """Whether an exchange from the block's packet `begun` on has one `number` behind."""
    first = first_of(work, number)
    return first < capacity(lane, work) and packet_of(work, begun + first) < work.packets


@function
def first_of(work, number):
    """The first number of those that are sent together, with `number` among them, or not at all (thread).

    A line's may reach past the message: what is sent there, nobody stores.
    """
    return number & -max(PLACES, LINE_THREADS) if work.in_lines else number


@function
def count_due(lane, work, begun):
    """How many packets, in whole runs and without lines, the block sends in an exchange from `begun` on (thread)."""
    runs = int64(divide_up(max(0, int64(divide_up(work.packets, RUN)) - work.part), work.parts))
    return min(lane.shape.packets, (runs << RUN_BITS) - begun)
