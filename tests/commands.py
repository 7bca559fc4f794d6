"""The shmemtp command, run with a model that answers at once."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROGRAM = ROOT / "tests" / "command_with_a_fake_model.py"
LIMIT_S = 60


def start(folder, *arguments, pes=0, program=PROGRAM, **environment):
    """The finished process, which ran in `folder`; under mpirun if `pes` says on how many."""
    command = [sys.executable, str(program), *arguments]
    if pes:
        command = [sys.executable, "-m", "shmemtp.launch", "-n", str(pes), *command]
    env = os.environ | {"PYTHONPATH": str(ROOT), "SHMEMTP_BACKEND": "emulator"} | environment
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT_S, cwd=folder)


def generate(model, *options):
    return ["generate", "--model", model, "--prompt", "one two three four", *options]


def errors(done):
    """The lines with which shmemtp reports errors; there is no traceback."""
    assert "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("shmemtp: error: ")]
