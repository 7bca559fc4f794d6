"""With no GPU: every kernel of the project becomes machine code for sm_90, none of them spills; a table is printed."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba_cuda", reason="compiling for GPUs needs the gpu extra")

ROOT = Path(__file__).resolve().parent.parent
CASES = [
    *(f"decode llama-3.1-8b TP {tp}" for tp in (1, 4, 8)),
    *("decode llama-3.1-70b TP 8", "decode tiny TP 2, put"),
    *("fill_random", "read_all", "stream_and_ask"),
    *("all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all"),
    *("all_reduce_norm_rows", "all_reduce_norm_clusters"),
    *("transfer_rounds put", "transfer_rounds get, nvshmem", "ping_pong_rounds put_signal, nvshmem"),
    *("collective_rounds all_reduce, 8 PEs", "collective_rounds all_to_all, 8 PEs, put", "barrier_rounds 8 PEs"),
    *("all_to_all_v_rounds 8 PEs", "all_reduce_norm_rounds 8 PEs"),
]
REGISTERS = 65536  # of a multiprocessor
LIMIT_S = 480  # beside other tests


@pytest.fixture(scope="module")
def compiled(tmp_path_factory, add_table):
    """Case -> what the assembler said (tests/compile_kernels.py)."""
    env = os.environ | {
        "SHMEMTP_BACKEND": "gpu",
        "PYTHONPATH": str(ROOT),
        "SHMEMTP_CACHE_DIR": str(tmp_path_factory.mktemp("cache")),
    }

    command = [sys.executable, str(ROOT / "tests" / "compile_kernels.py"), *CASES]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    heads = ("kernel", "threads", "registers", "shared", "spilled", "stack", "code", "seconds")
    add_table("kernels compiled for sm_90 (bytes)", heads, [list(row.values()) for row in rows])
    return {row.pop("kernel"): row for row in rows}


@pytest.mark.timeout(LIMIT_S)
@pytest.mark.parametrize("case", CASES)
def test_the_kernel_compiles_and_does_not_spill(compiled, case):
    row = compiled[case]
    assert row["spill_bytes"] == 0
    assert row["registers"] * row["block"] <= REGISTERS
    assert row["shared_bytes"] <= 227 * 1024
    assert row["code_bytes"] > 0


def kernels_of_the_project():
    """The names of all functions decorated with @kernel, and where they are."""
    for folder in ("device", "shmemtp", "scripts", "launch"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef) and any(ast.unparse(d) == "kernel" for d in node.decorator_list):
                    yield node.name, path.relative_to(ROOT)


def test_no_kernel_is_left_out():
    left_out = {(name, path) for name, path in kernels_of_the_project() if name not in {c.split()[0] for c in CASES}}
    assert not left_out, "tests/compile_kernels.py has no arguments for these"
