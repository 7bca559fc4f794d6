"""Data between the same lane of all PEs in lines: 128 bytes that arrive whole, 15 packets' data and one tag.

Where a packet spends half of its bytes on tags, a line spends a sixteenth: for messages that bandwidth bounds. The
verbs are those of exchange.py; `number` is a packet's among its block's (`communicator.Work`), and the threads of a
line, 16 on a GPU, call together.
"""

from .backend import function, load_from_line, of_last_in_line, peer, store_in_line, sync_line, uint32
from .communicator import PLACES, limits_of, line_place
from .watch import COLLECTIVE, LEAVE, keep_waiting


@function
def post(lane, epoch, phase, number, p, first, second):
    """Data for PE `p` as packet `number` of this lane (line)."""
    at = line_place(lane, epoch, phase, lane.rank, number)
    store_in_line(peer(lane.lines, lane.distances[p]), at, number & (PLACES - 1), first, second, uint32(epoch))


@function
def post_to_all(lane, epoch, phase, number, first, second):
    """The same data for every PE (line)."""
    at = line_place(lane, epoch, phase, lane.rank, number)
    for p in range(lane.shape.pes):
        store_in_line(peer(lane.lines, lane.distances[p]), at, number & (PLACES - 1), first, second, uint32(epoch))


@function
def collect(lane, epoch, phase, number, data):
    """Every PE's packet `number`: its words to `data`, uint32 [2 * pes] (line)."""
    place, limits, tag = number & (PLACES - 1), limits_of(lane), uint32(epoch)
    polls = began = 0
    while True:
        missing, seen = -1, uint32(0)
        sync_line()
        for p in range(lane.shape.pes):
            at = line_place(lane, epoch, phase, p, number)
            data[2 * p], data[2 * p + 1], found = load_from_line(lane.lines, at, place, tag)
            if found != tag:
                missing, seen = p, found
        if missing < 0:
            return
        polls += 1
        began = of_last_in_line(keep_waiting(limits, polls, began, COLLECTIVE, missing, number, tag, seen, 0))
        if began == LEAVE:
            return


@function
def collect_from(lane, epoch, phase, number, p):
    """PE p's packet `number`: its two words (line)."""
    place, limits, tag = number & (PLACES - 1), limits_of(lane), uint32(epoch)
    at = line_place(lane, epoch, phase, p, number)
    polls = began = 0
    while True:
        sync_line()
        first, second, found = load_from_line(lane.lines, at, place, tag)
        if found == tag:
            return first, second
        polls += 1
        began = of_last_in_line(keep_waiting(limits, polls, began, COLLECTIVE, p, number, tag, found, 0))
        if began == LEAVE:
            return first, second
