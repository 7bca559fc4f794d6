"""Collectives as the host calls them, ours and others', in graphs that are replayed: how long a call takes, and what
came of it. In the emulator, which has no graphs, the calls themselves are timed.

Whoever is measured gets the same: arrays of the same size with the same numbers, as many calls in a graph, as many runs
of it before those that are timed. When that is over come other numbers, of which the graph must make what is right.
"""

from itertools import cycle

from collective_kernels import ROOT
from inputs import NAMES, STORED, poison, wrong
from measure import RUNS, time_calls
from norm_vectors import EPS, Vectors
from pace import INPUTS

TIMED, CHECKED = range(2)  # sets of inputs


class HostCalls:
    """Each method measures one contender on all PEs: (microseconds of a call in each part, wrong elements)."""

    def __init__(self, pe, options, contenders):
        self._pe, self._options, self._type, self._contenders = pe, options, options.datatype, contenders

    def collective(self, comm, operation, count):
        """Ours."""
        given, taken = operation.lengths(count, self._pe.size)
        source = self._array(given)
        target = source if operation.name == "broadcast" else self._array(taken)
        arrays = (source, ROOT) if operation.name == "broadcast" else (source, target)
        call = getattr(comm, operation.name)
        replay = self._replay(lambda stream: call(*arrays, dtype=NAMES[self._type], stream=stream))
        self._write(operation, count, TIMED, source.fill)
        times = time_calls(self._pe, replay, self._options)
        target.fill(poison(self._type, taken))
        expected = self._write(operation, count, CHECKED, source.fill)
        replay.seconds()
        comm.check()
        return times, self._pe.comm.allreduce(wrong(target.numpy(), expected))

    def peer(self, peer, operation, count):
        """A contenders.Peer. It may add in any order: what it is checked with is whole."""
        replay = self._contenders.replay(peer, self._options.iters)
        checked = self._contenders.replay(peer, 1) if peer.once else replay
        self._write(operation, count, TIMED, peer.write)
        times = time_calls(self._pe, replay, self._options)
        expected = self._write(operation, count, CHECKED, peer.write, whole=True)
        checked.run()
        return times, self._pe.comm.allreduce(wrong(peer.read(), expected))

    def all_reduce_norm(self, comm, hidden):
        """Ours; calls take turns with INPUTS arrays."""
        vectors = Vectors(self._type, hidden, self._pe.size)
        residual, weight, target, *arrays = (self._array(hidden) for _ in range(3 + INPUTS))
        turns = cycle([arrays[number % INPUTS] for number in range(self._options.iters)])

        def call(stream):
            kind = {"eps": EPS, "dtype": NAMES[self._type]}
            comm.all_reduce_norm(next(turns), residual, weight, target, stream=stream, **kind)

        replay = self._replay(call, self._options.iters)
        for array, elements in zip(arrays, vectors.inputs, strict=True):
            array.fill(elements[self._pe.rank])
        weight.fill(vectors.weight)
        residual.fill(vectors.residual)
        times = time_calls(self._pe, replay, self._options)
        residual.fill(vectors.residual)
        target.fill(poison(self._type, hidden))
        self._pe.barrier()
        replay.seconds()
        comm.check()
        calls = RUNS[self._pe.backend] * self._options.iters
        count = vectors.wrong(calls, residual.numpy(), target.numpy(), period=self._options.iters)
        return times, self._pe.comm.allreduce(count)

    def norm_peer(self, peer, hidden):
        """A contender's all-reduce with torch's add and norm behind it, each of which rounds."""
        replay, checked = (self._contenders.replay(peer, times) for times in (self._options.iters, 1))
        self._write_norm(peer, Vectors(self._type, hidden, self._pe.size))
        times = time_calls(self._pe, replay, self._options)
        vectors = Vectors(self._type, hidden, self._pe.size, whole=True)
        self._write_norm(peer, vectors)
        checked.run()
        count = vectors.wrong(1, None, peer.read().view(STORED[self._type]), roundings=2)
        return times, self._pe.comm.allreduce(count)

    def _array(self, count):
        return self._pe.device.array(count, STORED[self._type])

    def _replay(self, call, before=1):
        """`call(stream)` in a graph, after it has been made so many times without one."""
        stream = self._pe.device.stream
        for _ in range(before):
            call(stream)
        self._pe.device.synchronize()
        return self._pe.device.replay(lambda: call(stream), self._options.iters)

    def _write(self, operation, count, set, write, whole=False):
        """Gives this PE its input; returns what its result must be. The PEs meet."""
        inputs = operation.inputs(self._type, count, self._pe.size, set, whole)
        own = inputs[self._pe.rank]
        if operation.name == "broadcast" and self._pe.rank != ROOT:
            own = poison(self._type, count)
        write(own)
        self._pe.barrier()
        return operation.expected(self._type, inputs, self._pe.rank, count)

    def _write_norm(self, peer, vectors):
        peer.write(vectors.inputs[0][self._pe.rank], vectors.residual, vectors.weight)
        self._pe.barrier()
