"""The data of all-reduce + residual + RMSNorm, and what must come of it: the residual bit for bit, the result rounded.

Rounds add one of INPUTS sets to the residual, which takes them up: so that it neither grows nor is the same twice, all
sets together make about nothing.
"""

import numpy as np
from inputs import random, stored, unrounded_sum, values
from pace import INPUTS

EPS = 1e-5
ROUNDING = {
    "float": 2.0**-20,
    "bfloat16": 2.0**-8,
    "half": 2.0**-11,
}  # relative; of a float, what its sum of squares may


class Vectors:
    """inputs: [set][PE] of `hidden` elements; residual and weight: the same on all PEs. As they are stored.

    whole: small integers, of which no sum is rounded, and one input set alone.
    """

    def __init__(self, type, hidden, pes, whole=False):
        self._type = type
        self.inputs = [[random(type, hidden, [p, set, 11], whole) for p in range(pes)] for set in range(INPUTS - 1)]
        last = [-sum(values(type, each[p]) for each in self.inputs) for p in range(pes)]
        self.inputs.append([stored(type, each.astype(np.float32)) for each in last])
        self.residual = random(type, hidden, [0, 12], whole)
        self.weight = random(type, hidden, [0, 13])

    def expected(self, rounds, period):
        """(the residual as it is stored, the normalised vector in float64) after so many rounds.

        The sets' turns begin anew after `period` rounds.
        """
        sums = [unrounded_sum(self._type, each) for each in self.inputs]
        residual = self.residual
        for number in range(rounds):
            residual = stored(self._type, sums[number % period % INPUTS] + values(self._type, residual))
        hidden = values(self._type, residual).astype(np.float64)
        return residual, hidden / np.sqrt((hidden**2).mean() + EPS) * values(self._type, self.weight)

    def wrong(self, rounds, residual, results, roundings=1, period=INPUTS):
        """Elements of the residual that differ in any bit, and of `results` [any, hidden] that are further from the
        exact result than so many roundings. residual: None where it is not to be looked at. period: see `expected`.
        """
        right, exact = self.expected(rounds, period)
        slack = 1.01 * roundings * ROUNDING[self._type] * np.abs(exact) + 1e-6
        far = ~(np.abs(values(self._type, results) - exact) <= slack)  # NaN is far
        return int(np.count_nonzero(far)) + (0 if residual is None else int(np.count_nonzero(residual != right)))
