"""SHMEMTP_BACKEND chooses what kernels run on, before the first import."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def name_of_backend(choice):
    outside = {name: value for name, value in os.environ.items() if name != "SHMEMTP_BACKEND"}
    own = {"PYTHONPATH": str(ROOT)} | ({"SHMEMTP_BACKEND": choice} if choice else {})
    command = [sys.executable, "-c", "import shmemtp.device as device; print(device.NAME)"]
    return subprocess.run(command, env=outside | own, capture_output=True, text=True, timeout=60)


def test_the_emulator_can_be_asked_for():
    assert name_of_backend("emulator").stdout.strip() == "emulator"


def test_unset_means_auto():
    unset = name_of_backend(None)
    assert unset.stdout.strip() in ("gpu", "emulator"), unset.stderr
    assert unset.stdout == name_of_backend("auto").stdout


def test_another_word_is_an_error():
    refused = name_of_backend("tpu")
    assert refused.returncode != 0
    assert "ShmemtpError: SHMEMTP_BACKEND is 'tpu'; it must be gpu, emulator or auto" in refused.stderr
