"""The launcher: mpirun with the environment that PEs want."""

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import shmemtp.launch

SHOW = """
from mpi4py import MPI; import os
world = MPI.COMM_WORLD
seen = world.gather((world.rank, world.size, len(os.sched_getaffinity(0))))
if world.rank == 0:  # lines of several PEs may mingle
    print(seen)
"""


def launch(*arguments, **changes):
    command = [sys.executable, "-m", "shmemtp.launch", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | changes)


def test_starts_more_pes_than_cores_and_binds_none():
    pes = (os.cpu_count() or 1) + 1
    done = launch("-n", str(pes), sys.executable, "-c", SHOW)
    assert done.returncode == 0, done.stderr
    assert ast.literal_eval(done.stdout) == [(rank, pes, len(os.sched_getaffinity(0))) for rank in range(pes)]


def test_passes_the_status_on():
    assert launch("-n", "1", sys.executable, "-c", "raise SystemExit(3)").returncode == 3


def test_text_comes_before_its_line_ends():
    program = "import time; print('first', end='', flush=True); time.sleep(20)"
    command = [sys.executable, "-m", "shmemtp.launch", "-n", "1", sys.executable, "-c", program]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
        assert running.stdout.read(5) == b"first"
        assert time.monotonic() - began < 15
        running.terminate()


def test_command_is_this_installations():
    done = launch("-n", "1", "python", "-c", "import sys; print(sys.executable)", PATH="/usr/bin:/bin")
    assert Path(done.stdout.strip()).parent == Path(sys.executable).parent


def test_mpirun_is_not_started_by_its_path(monkeypatch):
    """Open MPI 4 would then put its own folder, /usr/bin say, before this installation's."""
    started = []
    monkeypatch.setattr(sys, "argv", ["shmemtp.launch", "-n", "1", "true"])
    monkeypatch.setattr(os, "execve", lambda *args: started.append(args))
    shmemtp.launch.main()
    ((path, arguments, _),) = started
    assert os.path.isabs(path) and arguments[0] == "mpirun"


def test_users_settings_stand():
    name = "PRTE_MCA_hwloc_default_binding_policy"
    assert shmemtp.launch.environment({name: "core"})[name] == "core"
    assert shmemtp.launch.environment({})[name] == "none"


def test_without_arguments_says_how_to_use_it():
    done = launch()
    assert done.returncode != 0
    assert "python -m shmemtp.launch -n 2" in done.stderr


def test_without_mpirun_says_so(tmp_path):
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    start = f"import sys; sys.executable = {str(python)!r}; sys.argv = ['launch', '-n', '2', 'true']; "
    start += "import shmemtp.launch; shmemtp.launch.main()"
    env = os.environ | {"PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, env=env)
    assert done.returncode != 0
    assert "there is no mpirun" in done.stderr
