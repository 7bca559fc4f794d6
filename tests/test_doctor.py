"""`shmemtp doctor`."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_doctor_reports_every_check(tmp_path):
    from shmemtp.doctor import CHECKS

    env = os.environ | {"PYTHONPATH": str(ROOT), "SHMEMTP_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-m", "shmemtp", "doctor"], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in CHECKS:
        assert any(
            line[9:].startswith(name) for line in done.stdout.splitlines() if line[:7].strip() in ("ok", "missing")
        )
    assert f"ok       cache         {tmp_path}, 0 MiB" in done.stdout
    assert "emulator backend: works" in done.stdout
    assert "several PEs under mpirun: works" in done.stdout


def test_the_doctor_says_what_to_do(monkeypatch, capsys):
    from shmemtp import doctor

    def absent():
        raise doctor.Missing("not here", "fetch it")

    monkeypatch.setattr(doctor, "CHECKS", {name: absent for name in doctor.CHECKS})
    assert doctor.examine() == 1
    out = capsys.readouterr().out
    assert out.count("not here") == out.count("-> fetch it") == len(doctor.CHECKS)
    assert "emulator backend: does not work" in out
