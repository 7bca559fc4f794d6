"""Data between the same lane of all PEs in lines: 128 bytes that arrive whole, 15 packets' data and one tag.

Where a packet spends half of its bytes on tags, a line spends a sixteenth: for messages that bandwidth bounds. The
verbs are those of exchange.py; `number` is a packet's among its block's (`work.Work`), and LINE_THREADS, on a
GPU those of two lines, call together.
"""

from .backend import all_in_line, function, load_from_line, peer, store_in_line, sync_line, uint32
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
    _post_to_all_but(lane, -1, epoch, phase, number, first, second)


@function
def post_to_others(lane, epoch, phase, number, first, second):
    """The same data for every other PE; `collect_others` gives this PE's own to where it is summed (line)."""
    _post_to_all_but(lane, lane.rank, epoch, phase, number, first, second)


@function
def _post_to_all_but(lane, rank, epoch, phase, number, first, second):
    at = line_place(lane, epoch, phase, lane.rank, number)
    for p in range(lane.shape.pes):
        if p != rank:
            store_in_line(peer(lane.lines, lane.distances[p]), at, number & (PLACES - 1), first, second, uint32(epoch))


@function
def collect(lane, epoch, phase, number, data):
    """Every PE's packet `number`: its words to `data`, uint32 [2 * pes] (line)."""
    _collect_from_all_but(lane, -1, epoch, phase, number, data)


@function
def collect_others(lane, epoch, phase, number, first, second, data):
    """`collect` of what was posted to others; first, second: what this PE itself posted (line)."""
    for p in range(lane.shape.pes):
        if p == lane.rank:
            data[2 * p], data[2 * p + 1] = first, second
    _collect_from_all_but(lane, lane.rank, epoch, phase, number, data)


@function
def _collect_from_all_but(lane, rank, epoch, phase, number, data):
    place, limits, tag = number & (PLACES - 1), limits_of(lane), uint32(epoch)
    polls = began = 0
    while True:
        missing, seen = -1, uint32(0)
        sync_line()
        for p in range(lane.shape.pes):
            if p != rank:
                at = line_place(lane, epoch, phase, p, number)
                data[2 * p], data[2 * p + 1], found = load_from_line(lane.lines, at, place, tag)
                if found != tag:
                    missing, seen = p, found
        if all_in_line(missing < 0):
            return
        polls += 1
        if missing >= 0:
            began = keep_waiting(limits, polls, began, COLLECTIVE, missing, number, tag, seen)
        if not all_in_line(began != LEAVE):
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
        if all_in_line(found == tag):
            return first, second
        polls += 1
        if found != tag:
            began = keep_waiting(limits, polls, began, COLLECTIVE, p, number, tag, found)
        if not all_in_line(began != LEAVE):
            return first, second
