"""Collectives in persistent kernels (collective_kernels.py): their data, how long a round takes, what was wrong."""

import collective_kernels as kernels
import numpy as np
from inputs import KINDS, poison, random, wrong
from measure import Kernels
from norm_vectors import EPS, Vectors
from operations import uneven_counts
from pace import INPUTS, OUTPUTS, Pace

from shmemtp.device import Constants

LINE_ELEMENTS = 64


class KernelRounds:
    """Each method times a kernel on all PEs and checks its last rounds: (microseconds of each part, wrong elements)."""

    def __init__(self, pe, options):
        self._pe, self._type, self._kernels, self._shapes = pe, options.datatype, Kernels(pe, options), {}

    def collective(self, comm, operation, count, grid, block):
        type, size, rank = self._type, self._pe.size, self._pe.rank
        inputs = [operation.inputs(type, count, size, set) for set in range(INPUTS)]
        source, given = self._sets([each[rank] for each in inputs])
        taken = _apart(operation.lengths(count, size)[1])
        target = self._poisoned(OUTPUTS * taken)
        shape = self._shape(operation=operation.number, kind=KINDS[type])
        args = (shape, comm.argument, source, given, target, taken, count, Pace)
        times = self._time(kernels.collective_rounds, grid, block, args, comm)
        expected = [operation.expected(type, each, rank, count) for each in inputs]
        return times, self._wrong(target, taken, expected)

    def all_to_all_v(self, comm, count, grid, block):
        """`count` is the average of what two PEs exchange."""
        type, size, rank = self._type, self._pe.size, self._pe.rank
        counts = uneven_counts(count, size)
        length = size * count
        inputs = [[random(type, length, [p, set, 9]) for p in range(size)] for set in range(INPUTS)]
        source, given = self._sets([each[rank] for each in inputs])
        taken = _apart(length)
        target = self._poisoned(OUTPUTS * taken)
        starts = np.cumsum(counts, 1) - counts  # [sender, receiver]
        tos = np.cumsum(counts, 0) - counts
        begun = self._numbers([set * given + starts[rank] for set in range(INPUTS)])
        ended = self._numbers([set * taken + tos[:, rank] for set in range(OUTPUTS)])
        shape = self._shape(kind=KINDS[type])
        sent, received = self._numbers(counts[rank]), self._numbers(counts[:, rank])
        args = (shape, comm.argument, source, begun, sent, target, ended, received, int(counts.max()), Pace)
        times = self._time(kernels.all_to_all_v_rounds, grid, block, args, comm)
        parts = [[each[p][starts[p, rank] :][: counts[p, rank]] for p in range(size)] for each in inputs]
        return times, self._wrong(target, taken, [np.concatenate(each) for each in parts])

    def barrier(self, comm, grid, block):
        wrong_seen = self._numbers(np.zeros(grid))
        with self._pe.array(grid, np.uint64) as words:
            shape = self._shape(block=grid == 1)
            args = (shape, comm.argument, words.argument, wrong_seen, Pace)
            times = self._time(kernels.barrier_rounds, grid, block, args, comm)
        return times, self._pe.comm.allreduce(int(wrong_seen.numpy().sum()))

    def all_reduce_norm(self, comm, hidden, grid, block, cluster):
        """Also checks that all clusters have the same residual. cluster: blocks of one."""
        vectors, clusters = Vectors(self._type, hidden, self._pe.size), grid // cluster
        args, residual, target = self._norm(comm, vectors, grid, cluster)
        options = dict(shared_bytes=16 + 4 * target.nbytes // grid + 4 * max(8, block), cluster=cluster)
        times = self._time(kernels.all_reduce_norm_rounds, grid, block, args, comm, **options)
        found = target.numpy().view(residual.dtype).reshape(grid, -1)[:, :hidden]
        left = residual.numpy().reshape(1 + clusters, hidden)[1:]
        return times, self._pe.comm.allreduce(vectors.wrong(self._kernels.rounds, left, found))

    def norm_clusters(self, comm, hidden, block, cluster):
        """How many clusters of so many blocks `all_reduce_norm` can have on every PE's device."""
        args, _, _ = self._norm(comm, Vectors(self._type, hidden, self._pe.size), cluster, cluster)
        most = self._kernels.most_clusters(kernels.all_reduce_norm_rounds, args, cluster, block)
        return min(self._pe.comm.allgather(most))

    def _norm(self, comm, vectors, grid, cluster):
        """The kernel's arguments, and among them the residual and the target."""
        source, given = self._sets([each[self._pe.rank] for each in vectors.inputs])
        residual = self._filled(np.tile(vectors.residual, 1 + grid // cluster))
        hidden = len(vectors.residual)
        words = 2 * -(-hidden * residual.dtype.itemsize // 8)
        target, weight = self._pe.device.array(grid * words, np.uint32), self._filled(vectors.weight)
        shape = self._shape(kind=KINDS[self._type], hidden=hidden, words=words, blocks=cluster)
        args = (shape, comm.argument, source, given, residual, weight, target, np.float32(EPS), Pace)
        return args, residual, target

    def _shape(self, **fields):
        """The same record for the same fields: on a GPU, each is a machine code."""
        key = tuple(fields.items())
        if key not in self._shapes:
            self._shapes[key] = Constants(**fields)
        return self._shapes[key]

    def _filled(self, elements):
        array = self._pe.device.array(elements.size, elements.dtype)
        array.fill(elements.ravel())
        return array

    def _numbers(self, numbers):
        return self._filled(np.asarray(numbers, np.int64))

    def _poisoned(self, count):
        return self._filled(poison(self._type, count))

    def _sets(self, sets):
        """(the sets in one array, how many elements apart they are)."""
        apart = _apart(len(sets[0]))
        elements = np.zeros((len(sets), apart), sets[0].dtype)
        elements[:, : len(sets[0])] = sets
        return self._filled(elements), apart

    def _time(self, kernel, grid, block, args, comm, **options):
        return self._kernels.time(kernel, grid, block, args, comm.check, **options)

    def _wrong(self, target, apart, expected):
        """Of the last rounds, on all PEs."""
        found, rounds, count = target.numpy(), self._kernels.rounds, 0
        for number in range(max(0, rounds - OUTPUTS), rounds):
            right = expected[number % INPUTS]
            count += wrong(found[number % OUTPUTS * apart :][: len(right)], right)
        return self._pe.comm.allreduce(count)


def _apart(count):
    """How far apart sets of so many elements are: they begin on 128 bytes or more."""
    return -(-count // LINE_ELEMENTS) * LINE_ELEMENTS
