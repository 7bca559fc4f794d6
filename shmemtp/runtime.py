"""From MPI to a device and a symmetric heap: `init()` makes this process a PE among its peers."""

import atexit
import importlib
import os
import sys
from functools import cached_property

import numpy as np

from . import topology
from .agreement import Agreement, agree
from .communicator import LANES, PACKETS, Communicator
from .errors import InputError, ShmemtpError
from .heap import SymmetricArray
from .kernels import Kernels, Watch
from .log import LOG
from .watchdog import Watchdog, timeout_s
from .world import join

__all__ = ["PE", "Team", "agree", "init"]

BACKENDS = ("auto", "gpu", "emulator")
BOOTSTRAPS = ("unique-id", "mpi")


def init(backend: str = "auto", bootstrap: str = "unique-id") -> "PE":
    """Joins the job that `mpirun` started and returns this process's PE. Collective; one process alone is a job of one.

    Parameters
    ----------
    backend : "auto", "gpu" or "emulator". "auto" follows SHMEMTP_BACKEND, else takes the GPU if one is visible.
        It can be chosen until `shmemtp.device` is first imported in this process.
    bootstrap : "unique-id" (NVSHMEM's unique id over any MPI) or "mpi" (NVSHMEM's plugin for Open MPI).

    Use it as a context manager: all is freed at its end, and a PE that fails does not leave the others waiting.
    """
    comm = join()
    together = Agreement(comm)
    with together:
        agree(comm, "backends", backend)
        agree(comm, "bootstraps", bootstrap)
        if bootstrap not in BOOTSTRAPS:
            raise InputError(f"there is no bootstrap {bootstrap!r}: choose one of {', '.join(BOOTSTRAPS)}")
        return PE(comm, together, _load_backend(backend), bootstrap)


def _load_backend(name):
    """The backend's module, chosen before it is first imported."""
    if name not in BACKENDS:
        raise InputError(f"there is no backend {name!r}: choose one of {', '.join(BACKENDS)}")
    if name != "auto" and "shmemtp.device.backend" not in sys.modules:
        os.environ["SHMEMTP_BACKEND"] = name
    try:
        backend = importlib.import_module("shmemtp.device.backend")
    except ValueError as error:  # SHMEMTP_BACKEND names no backend
        raise InputError(str(error)) from None
    except ImportError as error:
        raise ShmemtpError(
            f"the {name} backend does not load ({error}): `shmemtp doctor` says what is missing"
        ) from error
    if name not in ("auto", backend.NAME):
        raise InputError(f"this process already runs on the {backend.NAME} backend, too late to choose {name}")
    return backend


class Team:
    """Some PEs, which communicate among themselves: a tensor-parallel group.

    `pes[r]` is the PE (its number in the job) of team rank `r`; `distances[r]` (int64) is what a kernel adds to an
    address of this PE's heap to reach the same place on it, None without P2P reach. `comm` is an mpi4py communicator.
    """

    def __init__(self, comm, pes, distances):
        self.comm, self.rank, self.size, self.pes = comm, comm.rank, comm.size, list(pes)
        self.distances = None if distances is None else np.asarray(distances, np.int64)[self.pes]

    def barrier(self):
        """Returns when all PEs of the team have called it."""
        self.comm.Barrier()

    def __repr__(self):
        return f"Team(rank {self.rank} of {self.size}, PEs {self.pes})"


class PE:
    """This process among its peers: made by `init`.

    `rank` of `size` PEs, `local_rank` on its node; `backend` "gpu" or "emulator"; `comm` an mpi4py communicator;
    `device` and `heap` the backend's; `team` the Team of all PEs; `topology` what lies between them; `watchdog` to call
    while waiting for a kernel; `timeout_s` the limit of a wait on the device. `with pe.together:` is a step of all PEs:
    if its body fails on one, all raise.
    """

    closed = False

    def __init__(self, comm, together, backend, bootstrap):
        self.comm, self.together, self._teams = comm.Dup(), together, []
        self._communicators = []
        self.rank, self.size, self.backend = comm.rank, comm.size, backend.NAME
        agree(comm, "backends", self.backend)
        self.timeout_s = agree(comm, "SHMEMTP_TIMEOUT_S", timeout_s())
        node = comm.Split_type(_mpi().COMM_TYPE_SHARED, comm.rank)
        self.local_rank = node.rank
        with together:  # before the heap, where the others would wait for a PE without a device
            self.device = backend.Device(_choose_gpu(node) if self.backend == "gpu" else node.rank)
        node.Free()
        LOG.debug("PE %d of %d on %s", self.rank, self.size, self.device.name)
        options = {"bootstrap": bootstrap} if self.backend == "gpu" else {}
        self.heap = backend.Heap(self.device, self.comm, **options)
        self.team = Team(self.comm, range(self.size), self.heap.distances)
        self.topology = topology.find(self)
        self.watchdog, self._kernels = Watchdog(self.comm), Kernels(self)
        atexit.register(self._at_exit)

    def array(self, shape, dtype="float32") -> SymmetricArray:
        """A zeroed symmetric array. Collective; InputError, on all PEs, where shape or dtype differ.

        dtype : NumPy's. bfloat16 is held as uint16: say `dtype="bfloat16"` to a collective, BFLOAT16 in a kernel.
        """
        self._open()
        return SymmetricArray(self, shape, dtype)

    def split(self, color: int | None) -> Team | None:
        """Collective: the team of the PEs that give the same `color`, in order of rank; None where it is None."""
        self._open()
        comm = self.comm.Split(_mpi().UNDEFINED if color is None else color, self.rank)
        if color is None:
            return None
        self._teams.append(Team(comm, comm.allgather(self.rank), self.heap.distances))
        return self._teams[-1]

    def watch(self, team: Team | None = None) -> Watch:
        """The limit of a kernel's waits: an argument for `run`. Its kernel numbers PEs by their rank in `team`."""
        return Watch(self, team)

    def run(
        self,
        kernel,
        grid: int,
        block: int,
        *args,
        shared_bytes: int = 0,
        warp: int | None = None,
        cluster: int | None = None,
    ):
        """Runs a kernel on grid x block threads of this PE's device and returns when it has ended.

        args : arrays (symmetric or of `device.array`), numbers, `Constants`, (named) tuples of these, communicators,
            and the `watch()` that bounds its waits: TimeoutError_ if one ran out, PeerLost if a peer's process ends
            meanwhile.
        shared_bytes : shared memory of each block: what its `shared` views need. warp : threads of a warp in the
            emulator, 1 by default; it divides the block. cluster : blocks of a cluster, 8 at most, which divide the
            grid; None: no clusters. PEs are not compared: other grids, blocks, counts or orders of calls on one PE end
            as another's TimeoutError_.
        """
        self._open()
        self._kernels.run(kernel, grid, block, args, shared_bytes=shared_bytes, warp=warp, cluster=cluster)

    def communicator(
        self, team: Team | None = None, *, algorithm: str = "auto", lanes: int = LANES, packets: int = PACKETS
    ) -> Communicator:
        """Collective: what a team's collectives need, in kernels and from the host (all PEs' by default).

        team : the memory is of all PEs, so all call this, each with its own team: one that `split` left out needs one
            of its own. algorithm : see `algorithm.choose`. lanes : blocks that may take part in a kernel's collectives.
        packets : of 8 bytes, that a lane takes from each PE at once, a multiple of 8; longer messages go in turns.
        """
        self._open()
        self._communicators.append(Communicator(self, team, algorithm, lanes, packets))
        return self._communicators[-1]

    @cached_property
    def collectives(self) -> Communicator:
        """The communicator of all PEs, made when it is first asked for: collective then."""
        return self.communicator()

    def all_reduce(self, array, out=None, **options):
        """`Communicator.all_reduce` of all PEs: `out` (None: `array` itself) gets the sum of their arrays."""
        self._open()
        self.collectives.all_reduce(array, out, **options)

    def all_reduce_norm(self, array, residual, weight, out=None, **options):
        """`Communicator.all_reduce_norm` of all PEs: all-reduce, residual add and RMSNorm in one."""
        self._open()
        self.collectives.all_reduce_norm(array, residual, weight, out, **options)

    def barrier(self):
        """Returns when all PEs have called it."""
        self._open()
        self.comm.Barrier()

    def close(self, failed: bool = False):
        """Frees everything: arrays, teams, the heap, the device. Collective; closing twice does nothing.

        failed : not to wait for kernels that are under way.
        """
        if self.closed:
            return
        self.watchdog.close()
        if not failed and any(not each.freed for each in self._communicators):
            self.device.finish()  # their kernels, on others' streams, use the heap
        self.heap.close()
        self.closed = True
        for team in self._teams:
            team.comm.Free()
        self.together.free()
        self.comm.Free()
        atexit.unregister(self._at_exit)

    def _open(self):
        if self.closed:
            raise ShmemtpError("this PE is closed")

    def __enter__(self):
        self._open()
        return self

    def __exit__(self, kind, error, trace):
        if self.closed:
            return
        raised = self.together.settle(error)
        self.close(failed=raised is not None)
        if raised is not None and raised is not error:
            raise raised

    def _at_exit(self):
        """For programs without a `with`: the same, when Python ends."""
        try:
            self.__exit__(None, getattr(sys, "last_value", None), None)
        except ShmemtpError:
            pass

    def __repr__(self):
        return f"PE({self.rank} of {self.size}, {self.backend})"


def _choose_gpu(node):
    from .device.backend.gpu.node import take_one

    return take_one(node)


def _mpi():
    from mpi4py import MPI

    return MPI
