"""What only hardware can show: `mpirun -n N python -m pytest tests/gpu`, every PE runs every test, rank 0 reports."""

import os
import sys

import pytest
from mpi4py import MPI

import shmemtp


@pytest.fixture(scope="session")
def pe():
    with shmemtp.init(backend="gpu") as pe:
        yield pe


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    if MPI.COMM_WORLD.rank:
        config.get_terminal_writer()._file = open(os.devnull, "w")


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report):
    """A failure on one PE ends the job: the others may wait for it."""
    if report.failed and MPI.COMM_WORLD.size > 1:
        told = f"\nPE {MPI.COMM_WORLD.rank}: {report.nodeid} failed\n{report.longreprtext}"
        print(told, file=sys.__stderr__, flush=True)
        MPI.COMM_WORLD.Abort(1)
