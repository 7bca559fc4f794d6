"""The command line, alone and under mpirun, with a model that answers at once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import errors, generate

from shmemtp.algorithm import ALGORITHMS
from shmemtp.table import read_table
from shmemtp.topology import Topology

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("pes", [0, 2])
def test_text_is_all_there_is_on_standard_output(run, pes):
    done = run(*generate("any", "--max-new-tokens", "3"), pes=pes)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "one two three fourone two three \n"  # the prompt, and what the fake model makes of it
    assert "library chatter" in done.stderr
    assert "chatter from C" in done.stderr


def test_the_prompt_can_be_ids_and_the_times_are_logged(run):
    done = run("generate", "--model", "any", "--prompt-ids", "5,6")
    assert done.stdout == "<5><6><5> <6> \n"
    times = "loaded in 0.5 s, kernel ready in 0.2 s, first token after 0.10 s, then 2.00 ms per token"
    assert any(line.endswith(times) for line in done.stderr.splitlines())


@pytest.mark.parametrize("pes", [0, 2])
def test_json_is_all_there_is_on_standard_output(run, pes):
    done = run("generate", "--model", "any", "--prompt-ids", "5,6", "--format", "json", "--seed", "3", pes=pes)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "prompt_ids": [1, 2],
        "token_ids": [0, 1],
        "text": "<5> <6> ",
        "stop_reason": "['max_new_tokens', 'seed', 'temperature', 'top_p']",
        "tp_size": 3,
        "backend": "emulator",
        "algorithm": "packets",
        "load_s": 0.5,
        "compile_s": 0.25,
        "prefill_s": 0.1,
        "ms_per_token": 2.0,
    }


def test_ignore_eos_is_no_stop_tokens(run):
    done = run(*generate("any", "--ignore-eos", "--format", "json"))
    assert "stop_tokens" in json.loads(done.stdout)["stop_reason"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "COMMAND"),
        (["generate", "--prompt", "a"], "--model"),
        (["generate", "--model", "any"], "--prompt --prompt-ids"),
        (["generate", "--model", "any", "--prompt", "a", "--prompt-ids", "1"], "not allowed with"),
        (["generate", "--model", "any", "--prompt-ids", "1,x"], "'1,x' is not a list of token ids"),
        (generate("any", "--max-new-tokens", "0"), "'0' is not a whole number from 1 up"),
        (generate("any", "--temperature", "nan"), "'nan' is not a number from 0.0 up"),
        (generate("any", "--top-p", "1.5"), "'1.5' is not a number from 0.0 to 1.0"),
        (generate("any", "--backend", "cpu"), "'cpu'"),
        (generate("any", "--algorithm", "ring"), "'ring'"),
        (["tune", "--max-bytes", "100"], "'100' is not a size such as 512, 8K or 1M, 1024 or more"),
        (["tune"], "start at least two"),
        (generate("any", "--tensor-parallel", "2"), "unrecognized arguments"),
        (["bench", "nothing"], "no benchmark nothing"),
    ],
)
def test_bad_options_are_one_line(run, arguments, told):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert told in done.stderr
    assert done.stderr.splitlines() == errors(done)
    assert len(errors(done)) == 1


def test_bench_runs_a_script_with_its_arguments(run, tmp_path):
    (tmp_path / "neighbour.py").write_text("from sys import argv\n")
    (tmp_path / "bench_echo.py").write_text(
        "from neighbour import argv\nif __name__ == '__main__':\n    print(argv[1:])\n"
    )
    program = tmp_path / "elsewhere.py"
    program.write_text(
        f"import pathlib, sys, shmemtp.cli\n"
        f"shmemtp.cli.SCRIPTS = pathlib.Path({str(tmp_path)!r})\n"
        f"sys.exit(shmemtp.cli.main())\n"
    )
    done = run("bench", "echo", "--model", "any", "-n", "3", program=program)
    assert (done.returncode, done.stdout) == (0, "['--model', 'any', '-n', '3']\n"), done.stderr
    assert "there are echo" in run("bench", program=program).stderr
    (tmp_path / "bench_decode.py").write_text('"""Milliseconds per token.\n\nMore of it."""\n')
    listed = run("bench", "--help", program=program)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert [line.split() for line in listed.stdout.splitlines()[-2:]] == [
        ["decode", "Milliseconds", "per", "token."],
        ["echo"],
    ]
    assert run("bench", "echo", "--help", program=program).stdout == "['--help']\n"


def test_tune_prints_and_keeps_a_table(run, tmp_path, monkeypatch):
    """For jobs like the one that measured it."""
    monkeypatch.setenv("SHMEMTP_CACHE_DIR", str(tmp_path))
    done = run("tune", "--max-bytes", "2K", "--repeats", "1", pes=2, SHMEMTP_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "2 PEs on 1 node: emulator, all pairs over shared memory" in done.stderr
    head, *rows, last = done.stdout.splitlines()
    assert [row.split()[0] for row in rows] == ["1024", "2048"]
    (path,) = (tmp_path / "tuned").iterdir()
    assert last == f"written to {path}"
    links, reach = (("", "shared memory"), ("shared memory", "")), ((True, True), (True, True))
    measured = read_table(Topology((0, 0), links, reach, "emulator"))
    assert {row.algorithm for row in measured} == set(ALGORITHMS)
    assert all(f"{row.us:.2f}" in rows[row.bytes // 2048] for row in measured)


def test_importing_shmemtp_loads_neither_mpi_nor_numba_nor_cuda():
    program = (
        "import sys, shmemtp; names = dir(shmemtp)\n"
        "from shmemtp import ShmemtpError\n"
        "heavy = {'mpi4py', 'numba', 'cuda', 'nvshmem', 'numpy', 'shmemtp.device'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert {'init', 'PE', 'SymmetricArray', 'LLM', 'DecodeLoop', 'ShmemtpError'} <= set(names)\n"
        "assert not hasattr(shmemtp, 'nonsense')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_the_module_is_the_command():
    command = [sys.executable, "-m", "shmemtp"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    assert (
        "generate" in subprocess.run([*command, "--help"], env=env, check=True, capture_output=True, text=True).stdout
    )
    version = subprocess.run([*command, "--version"], env=env, check=True, capture_output=True, text=True).stdout
    assert version.startswith("shmemtp")
