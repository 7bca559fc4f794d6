"""How a persistent kernel times itself: rounds without a pause, and a stamp of the device's clock after each part."""

from collections import namedtuple

from shmemtp.device import block_index, clock, function, sync_block, thread_index, uint32

Pace = namedtuple("Pace", "parts rounds stamps")
Pace.__doc__ = """A kernel's argument: `parts` of so many `rounds`; stamps: int64 [blocks, parts + 1], nanoseconds."""

INPUTS, OUTPUTS = 3, 2  # sets that take turns: a place is never given twice in succession what it holds already


@function
def stamp(pace, part):
    """Notes that all threads of the block have come here (block). `part` 0 is the start."""
    sync_block()
    if thread_index() == 0:
        pace.stamps[block_index() * (pace.parts + 1) + part] = clock()


@function
def next_place(place, each, sets):
    """Where the set after the one at `place` begins; `sets` take turns, `each` apart, the first one at 0 (uint32)."""
    after = uint32(place + each)
    return uint32(0) if after == uint32(sets * each) else after


@function
def following(turn, turns):
    """The set after `turn`."""
    return 0 if turn + 1 == turns else turn + 1
