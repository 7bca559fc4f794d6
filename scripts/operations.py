"""What each collective is given and must give, and nccl-tests' way of counting its bytes."""

from dataclasses import dataclass

import collective_kernels as kernels
import numpy as np
from inputs import random, summed


@dataclass(frozen=True)
class Operation:
    """number: collective_kernels'. given, taken: whether a PE's input, and its result, has a part for each PE."""

    name: str
    number: int
    given: bool = False
    taken: bool = False
    redop: str = "none"

    def count(self, elements, pes):
        """Elements of a part, where the larger of input and result has `elements` in all: nccl-tests' count."""
        return max(1, elements // pes) if self.given or self.taken else max(1, elements)

    def lengths(self, count, pes):
        """Elements of an input and of a result."""
        return count * (pes if self.given else 1), count * (pes if self.taken else 1)

    def traffic(self, pes):
        """busbw over algbw."""
        if self.name == "broadcast":
            return 1.0
        return (2 if self.name == "all_reduce" else 1) * (pes - 1) / pes

    def inputs(self, type, count, pes, set, whole=False):
        """All PEs' inputs, set number `set`; `whole`: such that sums are exact in any order."""
        length, _ = self.lengths(count, pes)
        return [random(type, length, [p, set, self.number], whole) for p in range(pes)]

    def expected(self, type, inputs, rank, count):
        """The result of PE `rank`."""
        if self.name == "broadcast":
            return inputs[kernels.ROOT]
        parts = [each[rank * count : (rank + 1) * count] for each in inputs] if self.given else inputs
        return summed(type, parts) if self.redop == "sum" else np.concatenate(parts)


OPERATIONS = {
    operation.name: operation
    for operation in (
        Operation("all_reduce", kernels.ALL_REDUCE, redop="sum"),
        Operation("all_gather", kernels.ALL_GATHER, taken=True),
        Operation("reduce_scatter", kernels.REDUCE_SCATTER, given=True, redop="sum"),
        Operation("broadcast", kernels.BROADCAST),
        Operation("all_to_all", kernels.ALL_TO_ALL, given=True, taken=True),
    )
}


def uneven_counts(count, pes):
    """int64 [sender, receiver]: `count` on the average; every PE sends and gets `pes * count` in all."""
    offsets = np.array([(2 * d + 1) * count // pes for d in range(pes)])
    offsets[-1] += pes * count - offsets.sum()
    return np.array([[offsets[(q - p) % pes] for q in range(pes)] for p in range(pes)], np.int64)
