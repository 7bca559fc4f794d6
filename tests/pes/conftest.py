"""The suite that is valid at every PE count: `mpirun -n N python -m pytest tests/pes`, on either backend.

Every PE runs every test. Rank 0 reports; another rank speaks only of a failure. A failure on one PE ends the job, for
the others may wait for it.
"""

import os
import sys

import pytest
from mpi4py import MPI

import shmemtp
from shmemtp.device.backend import NAME, view

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # else JAX takes most of every GPU, for good
SECONDS = 120  # a test takes no longer on any PE
SHAPES = {  # grid, block, warp
    "emulator": [(1, 1, 1), (2, 1, 1), (5, 2, 1), (2, 4, 4), (3, 8, 4), (1, 32, 32)],
    "gpu": [(1, 32, 32), (2, 64, 32), (5, 256, 32), (132, 128, 32)],
}[NAME]


@pytest.fixture(scope="session")
def comm():
    return MPI.COMM_WORLD


@pytest.fixture(scope="session")
def pe():
    with shmemtp.init() as pe:
        yield pe


@pytest.fixture(scope="session")
def device(pe):
    return pe.device


@pytest.fixture(scope="session")
def heap(pe):
    return pe.heap


@pytest.fixture(params=SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def shape(request):
    """(grid, block, warp) of a launch, among them the smallest and more blocks than cores."""
    return request.param


@pytest.fixture
def run(device):
    """run(kernel, shape, *args, shared_bytes=0): compiles, launches, waits."""

    def compile_and_wait(kernel, shape, *args, shared_bytes=0):
        grid, block, warp = shape
        compiled = device.compile(kernel, args)
        device.launch(compiled, grid, block, args, shared_bytes=shared_bytes, warp=warp).wait()

    return compile_and_wait


@pytest.fixture
def symmetric(heap, comm):
    """symmetric(count, dtype): a zeroed symmetric array, freed after the test."""
    addresses = []

    def allocate(count, dtype):
        addresses.append(heap.allocate(count * dtype().itemsize))
        return view(addresses[-1], count, dtype)

    yield allocate
    comm.Barrier()
    for address in addresses:
        heap.free(address)


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    if MPI.COMM_WORLD.rank:
        config.get_terminal_writer()._file = open(os.devnull, "w")


def pytest_collection_modifyitems(items):
    for item in items:
        if not item.get_closest_marker("timeout"):
            # A thread ends the process: a signal's handler would wait for MPI to return.
            item.add_marker(pytest.mark.timeout(SECONDS, method="thread"))


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report):
    if report.failed and MPI.COMM_WORLD.size > 1:
        print(
            f"\nPE {MPI.COMM_WORLD.rank}: {report.nodeid} failed\n{report.longreprtext}",
            file=sys.__stderr__,
            flush=True,
        )
        MPI.COMM_WORLD.Abort(1)
