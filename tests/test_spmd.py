"""The SPMD suites under mpirun: each PE count is a test here and each of its tests a subtest.

So one run of pytest tells of all tests in its last line. A test counts as failed if any PE failed it, as skipped if
any PE skipped it and none failed.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parent.parent
SUITE = ("tests/pes",)
# Three PEs matter to what they divide, or add in order; the rest of the suite is run with one, two and four.
DIVIDED = ("decode", "prefill", "collectives", "all_reduce_norm", "communicator")
OF_THREE = tuple(f"tests/pes/test_{name}.py" for name in DIVIDED)
ON_GPUS = ("tests/gpu",)
LIMIT_S = 400  # beside other tests
WAIT_LIMIT_S = 40  # of a kernel's waits in the emulator, where up to 150 threads share the cores


def gpus() -> int:
    """How many GPUs this machine lists."""
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return sum(line.startswith("GPU") for line in listed.stdout.splitlines())


def cases():
    found = [("emulator", OF_THREE if pes == 3 else SUITE, pes) for pes in (1, 2, 3, 4)]
    on_gpus = [pes for pes in (1, 2, 4, 8) if pes <= gpus()]
    found += [("gpu", suite, pes) for suite in (SUITE, ON_GPUS) for pes in on_gpus]
    return [pytest.param(*case, id=f"{case[0]}-{case[1][0].split('/')[1]}-{case[2]}") for case in found]


def run_suite(backend: str, suite: tuple[str, ...], pes: int, reports: Path) -> tuple[int, str]:
    """Runs a suite on so many PEs; each leaves its report, a JUnit file named by its rank. Status and output."""
    pytest_line = [sys.executable, "-m", "pytest", "-v", "--color=no", "-p", "no:cacheprovider", *suite]
    pytest_line += ["--junit-xml", f"{reports}/$OMPI_COMM_WORLD_RANK.xml"]  # which pytest expands
    settings = {"SHMEMTP_BACKEND": backend}
    if backend == "emulator":
        settings["SHMEMTP_TIMEOUT_S"] = str(WAIT_LIMIT_S)
    process = subprocess.Popen(
        [sys.executable, "-m", "shmemtp.launch", "--tag-output", "-n", str(pes), *pytest_line],
        cwd=ROOT,
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.terminate()  # mpirun ends its PEs
        output, _ = process.communicate()
        output += f"\nstill running after {LIMIT_S} s"
    return process.returncode, output


def outcomes(reports: Path, pes: int) -> dict[str, dict[str, list[str]]]:
    """Test -> "failed", "skipped" or "passed" -> what each PE that says so writes, its number first."""
    found: dict[str, dict[str, list[str]]] = {}
    for pe in range(pes):
        report = reports / f"{pe}.xml"
        if not report.exists():
            continue
        for case in ElementTree.parse(report).iter("testcase"):
            said = found.setdefault(f"{case.get('classname')}::{case.get('name')}", {})
            for tag, outcome in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
                for element in case.findall(tag):
                    said.setdefault(outcome, []).append(f"PE {pe}: {element.text or element.get('message')}")
    return found


@pytest.mark.timeout(LIMIT_S + 60)
@pytest.mark.parametrize(("backend", "suite", "pes"), cases())
def test_suite(backend, suite, pes, tmp_path, subtests):
    status, output = run_suite(backend, suite, pes, tmp_path)
    found = outcomes(tmp_path, pes)
    for name, said in found.items():
        with subtests.test(name):
            if "failed" in said:
                pytest.fail("\n".join(said["failed"]), pytrace=False)
            if "skipped" in said:
                pytest.skip(said["skipped"][0])
    reported = sorted(path.stem for path in tmp_path.glob("*.xml"))
    assert status == 0, output
    assert reported == [str(pe) for pe in range(pes)], output
    assert found, output
