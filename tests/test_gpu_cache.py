"""Machine code for GPUs on disk, compiled here with no GPU: found again, and never when a source changed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HELPER = """
from shmemtp.device import function

@function
def scaled(value):
    return value * 3
"""
KERNEL = """
import logging
import sys
from helper import scaled
from numba.cuda import types
from shmemtp.device import kernel, thread_index
from shmemtp.device.backend.gpu.compile import compile_cubin

@kernel
def fill(out):
    out[thread_index()] = scaled(5)

logging.basicConfig(stream=sys.stdout, format="%(message)s")
logging.getLogger("shmemtp").setLevel("INFO")
cubin = compile_cubin(fill, (types.Array(types.int64, 1, "C"),), 128)
print(cubin.cached, cubin.spill_bytes)
"""

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None, reason="Numba-CUDA is not installed: pip install shmemtp[gpu]"
)


def run(folder):
    environment = os.environ | {
        "SHMEMTP_BACKEND": "gpu",
        "SHMEMTP_CACHE_DIR": str(folder / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    line = [sys.executable, "-B", str(folder / "main.py")]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_kernel_is_compiled_again_only_when_a_source_changed(tmp_path):
    told = f"compiling fill, which may take minutes; later starts read it from {tmp_path / 'cache'}"
    (tmp_path / "helper.py").write_text(HELPER)
    (tmp_path / "main.py").write_text(KERNEL)
    assert run(tmp_path) == [told, "False 0"]
    assert run(tmp_path) == ["True 0"]
    (tmp_path / "helper.py").write_text(HELPER.replace("3", "4"))
    assert run(tmp_path) == [told, "False 0"]
    (tmp_path / "main.py").write_text(KERNEL.replace("(5)", "(6)"))
    assert run(tmp_path) == [told, "False 0"]


def test_arguments_are_counted_before_anything_is_compiled(tmp_path):
    (tmp_path / "helper.py").write_text(HELPER)
    (tmp_path / "main.py").write_text(KERNEL.replace('(types.Array(types.int64, 1, "C"),)', "(types.int64,) * 2"))
    with pytest.raises(AssertionError, match=r"InputError: fill takes 1 argument \(out\) and was given 2"):
        run(tmp_path)
    assert not (tmp_path / "cache").exists()
