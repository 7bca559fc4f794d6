"""What the tests of collectives share: a channel, and many messages one after another with what must come of them."""

import elements
import numpy as np
import pytest

from shmemtp.algorithm import NEVER
from shmemtp.channel import Channel, Extent

OPERATIONS = ("all_reduce", "reduce_scatter", "all_gather", "broadcast", "all_to_all")
ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER, BROADCAST, ALL_TO_ALL = range(5)
SCATTERS, GATHERS = (REDUCE_SCATTER, ALL_TO_ALL), (ALL_GATHER, ALL_TO_ALL)  # a part for, and of, each PE
ALGORITHMS = {  # put, two_shot_bytes, line_bytes
    "one-shot": (False, NEVER, NEVER),
    "two-shot": (False, 0, NEVER),
    "one-shot, lines": (False, NEVER, 0),
    "two-shot, lines": (False, 0, 0),
    "one-shot-put": (True, NEVER, NEVER),
    "two-shot-put": (True, 0, NEVER),
}
PACKETS = 16  # of a lane's exchange: few, so that messages take several


def sizes_of(operation, count, pes):
    """Elements of source and of target."""
    return count * (pes if operation in SCATTERS else 1), count * (pes if operation in GATHERS else 1)


def expected(kind, operation, sources, count, rank, root):
    """What this rank's target holds. sources: by rank."""
    parts = [source.reshape(-1, count)[rank] for source in sources] if operation in SCATTERS else sources
    if operation in (ALL_REDUCE, REDUCE_SCATTER):
        return elements.sum_of(kind, parts)
    return parts[root] if operation == BROADCAST else np.concatenate(parts)


class Messages:
    """Many collectives' data: sources one after another, between them a gap of `gap` elements; targets likewise."""

    def __init__(self, pe, operation, kind, lengths, gap=1):
        self.operation, self.kind, self.lengths, self.pe = operation, kind, lengths, pe
        given, taken = zip(*(sizes_of(operation, count, pe.size) for count in lengths), strict=True)
        self.starts, self.tos = (np.cumsum([gap, *(n + gap for n in sizes[:-1])]) for sizes in (given, taken))
        self.source = elements.random(kind, int(self.starts[-1]) + given[-1] + gap, 100 + pe.rank)
        self.sources = [elements.random(kind, len(self.source), 100 + rank) for rank in range(pe.size)]
        self.untouched = elements.random(kind, int(self.tos[-1]) + taken[-1] + gap, 7)

    def check(self, target):
        right = self.untouched.copy()
        for n, count in enumerate(self.lengths):
            given, _ = sizes_of(self.operation, count, self.pe.size)
            parts = [source[self.starts[n] : self.starts[n] + given] for source in self.sources]
            result = expected(self.kind, self.operation, parts, count, self.pe.rank, n % self.pe.size)
            right[self.tos[n] : self.tos[n] + len(result)] = result
        np.testing.assert_array_equal(target, right)


def channel(pe, algorithm, lanes, packets=PACKETS, hidden_packets=1):
    put, two_shot_bytes, line_bytes = ALGORITHMS[algorithm]
    if pe.heap.distances is None and not put:
        pytest.skip("packets need P2P reach between all PEs")
    return Channel(pe, pe.team, Extent(lanes, packets, put, hidden_packets, line_bytes), two_shot_bytes)
