"""Calls of collectives that start before the one before them has ended (programmatic dependent launch)."""

import elements
import numpy as np
import pytest
from collecting import channel

from shmemtp.device import INT32, Constants, calls
from shmemtp.device.backend import NAME


@pytest.mark.skipif(NAME == "gpu", reason="is about the emulator: GPUs start test_communicator's calls so")
def test_each_waits_for_the_one_before(pe):
    """In a row, with other blocks and threads each; each reads what the one before wrote."""
    comm, count, rounds = channel(pe, "one-shot", 3), 48 * pe.size, 5
    values, gathered = pe.device.array(count, np.int32), pe.device.array(count * pe.size, np.int32)
    source = elements.random("int32", count, 100 + pe.rank)
    values.fill(source)
    own, everyones = (values, 0), (gathered, 0)
    row = (
        (calls.all_reduce, *own, *own),
        (calls.all_gather, *own, *everyones),
        (calls.reduce_scatter, *everyones, *own),
    )
    launches = []
    for n, (call, *arrays) in enumerate(rounds * row):
        args = (Constants(kind=INT32), comm.argument, *arrays, count)
        grid, block, warp = [(3, 8, 4), (1, 2, 1), (2, 16, 16), (1, 1, 1)][n % 4]
        launches.append(pe.device.launch(call, grid, block, args, warp=warp, early=True))
    for launch in launches:
        launch.wait()
    comm.check("calls")
    right = sum(elements.random("int32", count, 100 + rank) for rank in range(pe.size))
    for n in range(rounds):  # a reduce_scatter adds up what all have gathered from all, who had the same
        right = right * np.int32(pe.size ** (1 if n == 0 else 2))
    np.testing.assert_array_equal(values.numpy(), right)
    comm.free()
