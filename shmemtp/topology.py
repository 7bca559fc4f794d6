"""Where the PEs are and what lies between them: nodes, links, and who reaches whose memory."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .log import LOG

__all__ = ["Topology", "find"]

NETWORK, NVLINK, PCIE, SHARED_MEMORY, ONE_GPU = "network", "NVLink", "PCIe", "shared memory", "one GPU"


@dataclass(frozen=True)
class Topology:
    """The PEs of a job or of a team, numbered from 0.

    `hosts[a]` is the number of PE a's node; `links[a][b]` what lies between two PEs: "NVLink", "PCIe", "network",
    "one GPU" where both are on it or, in the emulator, "shared memory" ("" to itself); `reach[a][b]` whether kernels of
    a load and store b's symmetric arrays directly. `gpu` is the GPUs' name ("emulator" without), `cuda` the newest CUDA
    version that all drivers run, such as "13.0" ("" without), `nvlinks` how many links each GPU has up (0 if there are
    none or NVML is missing).
    """

    hosts: tuple[int, ...]
    links: tuple[tuple[str, ...], ...]
    reach: tuple[tuple[bool, ...], ...]
    gpu: str
    cuda: str = ""
    nvlinks: int = 0

    @property
    def pes(self) -> int:
        return len(self.hosts)

    @property
    def nodes(self) -> int:
        return len(set(self.hosts))

    def of(self, pes: Sequence[int]) -> "Topology":
        """The topology among some of the PEs: a team's, in its order."""

        def square(rows):
            return tuple(tuple(rows[a][b] for b in pes) for a in pes)

        hosts = tuple(self.hosts[pe] for pe in pes)
        return Topology(hosts, square(self.links), square(self.reach), self.gpu, self.cuda, self.nvlinks)

    def without_reach(self) -> tuple[int, int] | None:
        """The first two PEs of which one does not reach the other's memory; None if all do."""
        pairs = ((a, b) for a in range(self.pes) for b in range(self.pes))
        return next((pair for pair in pairs if not self.reach[pair[0]][pair[1]]), None)

    @property
    def whole_lines(self) -> bool:
        """Whether a line of 128 bytes that a warp stores at a PE arrives whole: so over NVLink, not so over PCIe."""
        return {link for row in self.links for link in row} <= {"", NVLINK, SHARED_MEMORY, ONE_GPU}

    def __str__(self):
        pes, nodes = _count(self.pes, "PE"), _count(self.nodes, "node")
        kinds = Counter(self.links[a][b] for b in range(self.pes) for a in range(b))
        alike = "all pairs" if len(kinds) == 1 else ""
        told = [f"{alike or _count(count, 'pair')} over {self._spell(kind)}" for kind, count in kinds.items()]
        return f"{pes} on {nodes}: " + ", ".join([self.gpu, *told])

    def _spell(self, link):
        if link == NVLINK and self.nvlinks:
            return f"{link} ({_count(self.nvlinks, 'link')})"
        return f"the {link}" if link == NETWORK else link


def _count(number, noun):
    return f"{number} {noun}{'s' * (number != 1)}"


def find(pe) -> Topology:
    """The topology of a PE's job, the same on all PEs; PE 0 logs it. Collective."""
    from mpi4py import MPI

    node = pe.comm.Split_type(MPI.COMM_TYPE_SHARED, pe.rank)
    host = node.bcast(pe.rank)
    node.Free()
    every = _find_emulator(pe, host) if pe.backend == "emulator" else _find_gpus(pe, host)
    if pe.rank == 0:
        LOG.info("%s", every)
    return every


def _find_emulator(pe, host):
    links = tuple(tuple("" if a == b else SHARED_MEMORY for b in range(pe.size)) for a in range(pe.size))
    return Topology(tuple(pe.comm.allgather(host)), links, ((True,) * pe.size,) * pe.size, "emulator")


def _find_gpus(pe, host):
    from .device.backend.gpu.links import active_nvlinks
    from .device.backend.gpu.node import driver_version, visible

    own = visible()[pe.device.machine.id].uuid
    told = pe.comm.allgather((host, own, pe.device.name, driver_version(), active_nvlinks(own)))
    hosts, uuids, names, versions, nvlinks = zip(*told, strict=True)
    mine = _links_of(pe.rank, hosts, uuids, direct=pe.heap.distances is not None)
    links, reach = zip(*pe.comm.allgather(tuple(zip(*mine, strict=True))), strict=True)
    names = " and ".join(dict.fromkeys(names))
    return Topology(hosts, links, reach, names, "{}.{}".format(*min(versions)), min(nvlinks))


def _links_of(rank, hosts, uuids, direct):
    """[(what lies between this PE and another, whether its memory is in reach)] for each PE.

    `direct`: the symmetric heap reaches every PE, whatever lies between.
    """
    from .device.backend.gpu.links import links

    near = [pe for pe, host in enumerate(hosts) if host == hosts[rank] and uuids[pe] != uuids[rank]]
    known = dict(zip(near, links(uuids[rank], [uuids[pe] for pe in near]), strict=True))
    found = []
    for pe in range(len(hosts)):
        if pe == rank:
            found.append(("", True))
        elif uuids[pe] == uuids[rank]:
            found.append((ONE_GPU, direct))
        elif pe in known:
            found.append((NVLINK if known[pe].nvlink else PCIE, direct or known[pe].reach))
        else:  # of another node: in direct reach only where NVLink joins the nodes
            found.append((NVLINK if direct else NETWORK, direct))
    return found
