"""The wheel holds what a user needs: the linked folders' real files, the demo, and nothing of the tests."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The project's wheel, built without a network from a copy of its source."""
    source = tmp_path_factory.mktemp("source")
    for name in ("shmemtp", "device", "launch", "tests"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "."]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return next(source.glob("shmemtp-*.whl"))


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def modules(folder, below):
    return {f"{below}{path.relative_to(ROOT / folder)}" for path in (ROOT / folder).rglob("*.py")}


def test_has_every_module_and_no_others(names):
    expected = (
        modules("shmemtp", "shmemtp/") | modules("device", "shmemtp/device/") | modules("launch", "shmemtp/launch/")
    )
    assert {name for name in names if name.endswith(".py")} == expected


def test_has_the_demo_and_the_contract(names):
    demo = {f"shmemtp/demo/{path.name}" for path in (ROOT / "shmemtp" / "demo").iterdir()}
    others = {name for name in names if not name.endswith(".py")}
    pages = {"shmemtp/device/README.md", "shmemtp/device/backend/README.md"}
    assert others == demo | pages | {"shmemtp/launch/slurm.sh"}


def test_installed_it_works_away_from_its_source(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    env = os.environ | {"PYTHONPATH": str(tmp_path), "SHMEMTP_BACKEND": "emulator"}
    show = "import shmemtp, shmemtp.device as d; print(shmemtp.__file__, d.__file__, d.NAME)"
    for arguments in (["-c", show], ["-m", "shmemtp", "--help"]):
        done = subprocess.run(
            [sys.executable, "-P", *arguments], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stderr
        if arguments[0] == "-c":
            package = tmp_path / "shmemtp"
            assert done.stdout.split() == [f"{package}/__init__.py", f"{package}/device/__init__.py", "emulator"]
        else:
            assert "generate" in done.stdout


def test_command_line_is_an_entry_point(wheel):
    with zipfile.ZipFile(wheel) as archive:
        entry = next(name for name in archive.namelist() if name.endswith("/entry_points.txt"))
        assert "shmemtp = shmemtp.cli:main" in archive.read(entry).decode()
