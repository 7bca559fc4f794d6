"""The command line, alone and under mpirun, with a model that answers at once."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shmemtp.algorithm import ALGORITHMS
from shmemtp.table import read_table
from shmemtp.topology import Topology

ROOT = Path(__file__).parent.parent
LIMIT_S = 60

# Stands in for shmemtp.llm: says back the prompt, and does what its name says on a PE that SHMEMTP_TEST_PE names.
FAKE = """
import os, signal, sys, types

from shmemtp.errors import InputError


class Token:
    def __init__(self, id, text):
        self.id, self.text = id, text


class LLM:
    tp_size, algorithm, load_s, compile_s = 3, "packets", 0.5, 0.25

    def __init__(self, model, pe, load_format, max_context, algorithm):
        print("library chatter")
        os.write(1, b"chatter from C\\n")
        self.pe, self.model = pe, model
        here = os.environ.get("SHMEMTP_TEST_PE", "all")
        if here != "all" and int(here) != pe.rank:
            if model == "dies" or model.endswith("while-others-wait"):
                pe.barrier()
            return
        if model.startswith("fails"):
            raise InputError("no such model")
        if model.startswith("breaks"):
            raise KeyError("a bug")
        if model == "dies":
            os.kill(os.getpid(), signal.SIGKILL)

    def decode(self, token_ids):
        return "".join(f"<{id}>" for id in token_ids)

    def generate(self, prompt, on_token=None, **options):
        words = prompt.split() if isinstance(prompt, str) else [f"<{id}>" for id in prompt]
        text = [f"{word} " for word in words[: options["max_new_tokens"]]]
        for id, word in enumerate(text):
            if on_token:
                on_token(Token(id, word))
        return types.SimpleNamespace(
            prompt_ids=[1, 2], token_ids=list(range(len(text))), text="".join(text), stop_reason=str(sorted(options)),
            prefill_s=0.1, ms_per_token=2.0,
        )


sys.modules["shmemtp.llm"] = types.ModuleType("shmemtp.llm")
sys.modules["shmemtp.llm"].LLM = LLM

from shmemtp.cli import main

sys.exit(main())
"""


@pytest.fixture
def run(tmp_path):
    """run(*arguments, pes=0, **environment): the finished process; under mpirun if `pes` says on how many."""
    program = tmp_path / "shmemtp_with_a_fake_model.py"
    program.write_text(FAKE)

    def start(*arguments, pes=0, program=program, **environment):
        command = [sys.executable, str(program), *arguments]
        if pes:
            command = [sys.executable, "-m", "shmemtp.launch", "-n", str(pes), *command]
        env = os.environ | {"PYTHONPATH": str(ROOT), "SHMEMTP_BACKEND": "emulator"} | environment
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT_S, cwd=tmp_path)

    start.program = program
    return start


def generate(model, *options):
    return ["generate", "--model", model, "--prompt", "one two three four", *options]


def errors(done):
    """The lines with which shmemtp reports errors; there is no traceback."""
    assert "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("shmemtp: error: ")]


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
    assert times in done.stderr.splitlines()[-1]


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
        (["tune", "--max-bytes", "100"], "'100' is not a whole number from 1024 up"),
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


@pytest.mark.parametrize("arguments", [generate("any", "--top-p", "2"), generate("fails")])
def test_what_fails_on_all_pes_is_told_once(run, arguments):
    done = run(*arguments, pes=2)
    assert done.returncode == 2
    (line,) = errors(done)
    assert "PE" not in line


def test_what_fails_on_one_pe_names_it(run):
    done = run(*generate("fails"), pes=2, SHMEMTP_TEST_PE="1")
    assert done.returncode == 2
    assert errors(done) == ["shmemtp: error: PE 1: no such model"]


def test_a_pe_that_fails_does_not_leave_the_others_waiting(run):
    done = run(*generate("fails-while-others-wait"), pes=2, SHMEMTP_TEST_PE="1")
    assert done.returncode != 0
    told = errors(done)  # the one that is stopped speaks too, and whose line mpirun passes on first is its own choice
    assert told.count("shmemtp: error: PE 1: no such model") == 1


def test_a_bug_on_one_pe_while_the_others_wait_is_one_line(run):
    done = run(*generate("breaks-while-others-wait"), pes=2, SHMEMTP_TEST_PE="0")
    assert done.returncode != 0
    assert errors(done).count("shmemtp: error: PE 0: KeyError: 'a bug' (SHMEMTP_DEBUG=1 shows where)") == 1


def test_a_killed_pe_is_named_by_those_that_leave(run):
    done = run(*generate("dies"), pes=2, SHMEMTP_TEST_PE="1")
    assert done.returncode != 0
    (line,) = errors(done)
    assert line.startswith("shmemtp: error: PE 0 was stopped by SIGTERM: PE 1 (pid ")
    assert line.endswith("is gone")


def test_different_arguments_are_told_before_anything_is_loaded(run):
    command = [str(run.program), *generate("any", "--seed", "1")]
    done = run(*generate("any", "--seed", "2"), ":", "-n", "1", sys.executable, *command, pes=1)
    assert done.returncode == 2
    assert errors(done) == ["shmemtp: error: PEs were started with different --seed: 2 on PE 0, 1 on PE 1"]
    assert "library chatter" not in done.stderr


def test_a_bug_is_one_line_too(run):
    done = run(*generate("breaks"))
    assert done.returncode == 1
    assert errors(done) == ["shmemtp: error: KeyError: 'a bug' (SHMEMTP_DEBUG=1 shows where)"]


def test_debugging_shows_where(run):
    done = run(*generate("breaks"), SHMEMTP_DEBUG="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "KeyError: 'a bug'" in done.stderr.splitlines()


@pytest.mark.parametrize(("size", "rank"), [("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"), ("PMI_SIZE", "PMI_RANK")])
def test_mpirun_of_another_mpi(run, size, rank):
    """What a process sees then: a launcher that says 4 and an MPI that says 1."""
    done = run(*generate("any"), **{size: "4", rank: "0"})
    assert done.returncode == 1
    (line,) = errors(done)
    assert "started 4 processes, but mpi4py uses " in line
    assert "do not find each other" in line
    quiet = run(*generate("any"), **{size: "4", rank: "3"})
    assert quiet.returncode == 1
    assert quiet.stderr == ""  # process 0 has said it


def test_an_interrupt_is_no_traceback(run, tmp_path):
    program = tmp_path / "interrupted.py"
    program.write_text(run.program.read_text().replace('raise KeyError("a bug")', "raise KeyboardInterrupt"))
    done = run(*generate("breaks"), program=program)
    assert done.returncode == 128 + signal.SIGINT
    assert errors(done) == ["shmemtp: error: interrupted"]


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
    done = run("tune", "--max-bytes", "2048", "--repeats", "1", pes=2, SHMEMTP_CACHE_DIR=str(tmp_path))
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


@pytest.mark.parametrize("waiting", ["pe.barrier()", "pass"])
def test_a_program_without_a_with_does_not_hang_either(run, tmp_path, waiting):
    program = tmp_path / "program.py"
    program.write_text(
        "import shmemtp\n"
        "pe = shmemtp.init()\n"
        "array = pe.array(4)\n"
        "if pe.rank == 1:\n"
        "    raise KeyError('mine')\n"
        f"{waiting}\n"
    )
    done = run(pes=2, program=program)
    assert done.returncode != 0
    assert "KeyError: 'mine'" in done.stderr
    assert run(program=program).returncode == 0
