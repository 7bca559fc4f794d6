"""What the command line says when it fails: one line, on whichever PEs, and nobody hangs."""

import signal
import sys

import pytest
from commands import PROGRAM, errors, generate


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
    command = [str(PROGRAM), *generate("any", "--seed", "1")]
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
    program.write_text(PROGRAM.read_text().replace('raise KeyError("a bug")', "raise KeyboardInterrupt"))
    done = run(*generate("breaks"), program=program)
    assert done.returncode == 128 + signal.SIGINT
    assert errors(done) == ["shmemtp: error: interrupted"]


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
