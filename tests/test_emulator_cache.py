"""The emulator's compiled kernels on disk: found again in another process, and never when a source changed."""

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

SOURCES = {
    "rates.py": "RATE = 3\n",
    "helper.py": """
from shmemtp.device import function

@function
def scaled(value, rate):
    return value * rate
""",
    "kernels.py": """
import helper
from rates import RATE
from shmemtp.device import float32, kernel, local, thread_index

@kernel
def fill(shape, out):
    private = local(shape.count, float32)
    private[0] = float32(helper.scaled(shape.value, RATE))
    out[thread_index()] = private[0]
""",
    "main.py": """
import numpy as np
from kernels import fill
from shmemtp.device import Constants
from shmemtp.device.backend import Device

device = Device(0)
out = device.array(2, np.float32)
args = (Constants(count=4, value=5, scaled=True, eps=1e-5), out)
compiled = device.compile(fill, args)
device.launch(compiled, 1, 2, args).wait()
print(compiled.cached, sum(fill.stats.cache_misses.values()), out.numpy()[1])
""",
    "waiting.py": """
import contextlib
import runpy
import subprocess
import sys
from pathlib import Path
from shmemtp.device.backend.emulator.cache import KernelCache

main, alone = Path(__file__).with_name("main.py"), KernelCache.alone

@contextlib.contextmanager
def others_first(cache):
    subprocess.run([sys.executable, "-B", main], stdout=subprocess.DEVNULL, check=True)
    with alone(cache):
        yield

KernelCache.alone = others_first
runpy.run_path(main)
""",
}
Outcome = namedtuple("Outcome", "cached compilations value")  # what Compiled says, what was done, what the kernel wrote
COMPILED, FOUND = Outcome(False, 1, 15), Outcome(True, 0, 15)


@pytest.fixture
def program(tmp_path):
    """A folder with a program of four files, the kernel's sources in three of them, and one that starts it late."""
    folder = tmp_path / "program"
    folder.mkdir()
    for name, text in SOURCES.items():
        (folder / name).write_text(text)
    return folder


def start(program, cache, house=ROOT, file="main.py"):
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMIX_", "PRTE_"))}
    own = {"SHMEMTP_BACKEND": "emulator", "SHMEMTP_CACHE_DIR": str(cache), "PYTHONPATH": str(house)}
    command = [sys.executable, "-B", str(program / file)]
    return subprocess.Popen(command, env=outside | own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    cached, compilations, value = out.split()
    return Outcome(cached == "True", int(compilations), float(value))


def run(*args, **kwargs):
    return finish(start(*args, **kwargs))


def test_a_second_process_compiles_nothing(program, tmp_path):
    assert run(program, tmp_path / "cache") == COMPILED
    assert run(program, tmp_path / "cache") == FOUND


def test_what_is_compiled_is_told(program, tmp_path):
    logged = "import logging\nlogging.basicConfig(level=logging.INFO)\n"
    (program / "main.py").write_text(logged + SOURCES["main.py"])
    first, second = (start(program, tmp_path / "cache").communicate(timeout=60)[1] for _ in range(2))
    later = f"later starts read it from {tmp_path / 'cache'}"
    assert (first, second) == (f"INFO:shmemtp:compiling fill, which may take minutes; {later}\n", "")


@pytest.mark.parametrize(
    ("file", "old", "new", "value"),
    [
        ("kernels.py", "shape.value, RATE)", "shape.value + 1, RATE)", 18),
        ("helper.py", "value * rate", "value + rate", 8),
        ("rates.py", "3", "4", 20),
        ("main.py", "value=5", "value=5.5", 16.5),
    ],
)
def test_a_changed_source_compiles_again(program, tmp_path, file, old, new, value):
    assert run(program, tmp_path / "cache") == COMPILED
    (program / file).write_text(SOURCES[file].replace(old, new))
    assert run(program, tmp_path / "cache") == Outcome(False, 1, value)


def test_another_value_of_a_constant_compiles_nothing(program, tmp_path):
    assert run(program, tmp_path / "cache") == COMPILED
    (program / "main.py").write_text(SOURCES["main.py"].replace("count=4, value=5", "count=400, value=6"))
    assert run(program, tmp_path / "cache") == Outcome(True, 0, 18)


def test_a_changed_device_function_compiles_again(program, tmp_path):
    house = tmp_path / "house"
    shutil.copytree(ROOT / "shmemtp", house / "shmemtp", ignore=shutil.ignore_patterns("__pycache__", "demo"))
    assert run(program, tmp_path / "cache", house) == COMPILED
    assert run(program, tmp_path / "cache", house) == FOUND
    words = house / "shmemtp/device/backend/emulator/words.py"
    words.write_text(words.read_text() + "\n# changed\n")
    assert run(program, tmp_path / "cache", house) == COMPILED


def test_indices_are_checked_on_request(program, tmp_path, monkeypatch):
    assert run(program, tmp_path / "cache") == COMPILED
    monkeypatch.setenv("NUMBA_BOUNDSCHECK", "1")
    assert run(program, tmp_path / "cache") == COMPILED
    (program / "main.py").write_text(SOURCES["main.py"].replace("compiled, 1, 2,", "compiled, 1, 3,"))  # of 2 elements
    process = start(program, tmp_path / "cache")
    assert "IndexError: index is out of bounds" in process.communicate(timeout=60)[1]
    assert process.returncode


def test_one_of_several_processes_compiles(program, tmp_path):
    processes = [start(program, tmp_path / "cache") for _ in range(3)]
    outcomes = [finish(process) for process in processes]
    assert sorted(outcome.compilations for outcome in outcomes) == [0, 0, 1]
    assert {outcome.value for outcome in outcomes} == {15}


def test_what_another_process_compiled_meanwhile_was_not_cached(program, tmp_path):
    assert run(program, tmp_path / "cache", file="waiting.py") == Outcome(False, 0, 15)


def test_a_folder_that_cannot_be_is_no_error(program, tmp_path):
    (tmp_path / "file").write_text("")
    assert run(program, tmp_path / "file" / "cache") == COMPILED
