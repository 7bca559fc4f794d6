"""What a benchmark of collectives measures with: communicators, the contenders, kernels and calls of the host."""

from contenders import Contenders, why_not
from host_calls import HostCalls
from kernel_rounds import KernelRounds
from options import MOST_THREADS
from report import Row

from shmemtp.errors import InputError

BLOCKS = {"gpu": MOST_THREADS, "emulator": 1}  # threads of a block where neither a table nor a flag says it


class Contest:
    """Collective to make; all PEs call its methods.

    algorithms: those that are measured, by name. kernels and calls: KernelRounds, HostCalls. timing: "graph", or in the
    emulator "host". contenders: None where there are none.
    """

    def __init__(self, pe, options, algorithms):
        self.pe, self.options, self.algorithms = pe, options, options.algorithm or algorithms
        self.timing = "graph" if pe.backend == "gpu" else "host"
        self._why_not = next(filter(None, pe.comm.allgather(why_not(pe))), None)
        self.contenders = None if self._why_not or not options.launches else Contenders(pe)
        self.kernels, self.calls = KernelRounds(pe, options), HostCalls(pe, options, self.contenders)
        self._communicators = {}

    def communicator(self, algorithm, user=None):
        """None where the algorithm cannot run here and nobody asked for it. user: who has it alone."""
        key = algorithm, user
        if key not in self._communicators:
            lanes = max(128, self.pe.device.multiprocessors, (self.options.launch or (0,))[0])
            try:
                self._communicators[key] = self.pe.communicator(algorithm=algorithm, lanes=lanes)
            except InputError:
                if self.options.algorithm:
                    raise
                self._communicators[key] = None
        return self._communicators[key]

    def ours(self, common, algorithm, call):
        """The row of a call of the host. call(communicator): (times, wrong)."""
        row, comm = Row(*common, f"{self.timing}, {algorithm}", against=self.timing), self.communicator(algorithm)
        if comm is None:
            row.note = "no P2P reach"
        else:
            row.times, row.wrong = call(comm)
        return row

    def theirs(self, common, peers, call):
        """The contenders' rows. peers(contenders): what there is; call(peer): (times, wrong)."""
        if self.contenders is None:
            yield Row(*common, "NCCL, symm_mem", note=self._why_not)
            return
        for peer in peers(self.contenders):
            row = Row(*common, f"{self.timing}, {peer.name}", against=self.timing, peer=True, note=peer.note)
            if not peer.note:
                row.times, row.wrong = call(peer)
            yield row

    def close(self):
        if self.contenders:
            self.contenders.close()
