"""The vote on a stop: whatever one thread of the block that speaks has seen, all blocks of all PEs hear the same."""

import numpy as np
import pytest

from shmemtp.device import (
    Constants,
    block_index,
    float32,
    int64,
    kernel,
    limits_of,
    shared,
    sync_block,
    thread_index,
    uint64,
)
from shmemtp.device.backend import NAME
from shmemtp.device.vote import Ballot, agree_to_stop

GRID, BLOCK, WARP = (3, 4, 2) if NAME == "emulator" else (3, 64, 32)
ROUNDS = 3


@kernel
def ask(plan, comm, votes, outbox, signals, saying, heard):
    """heard: int64 [rounds, blocks, threads]. Only thread `saying` sees that the host wants to stop, in round 1."""
    epoch, keys = shared(0, 1, int64), shared(8, plan.warps, uint64)
    ballot = Ballot(votes, outbox, signals, keys, shared(8 + 8 * plan.warps, plan.warps + 4, float32), epoch)
    epoch[0] = 1
    sync_block()
    speaks = comm.rank == 0 and block_index() == 0
    for n in range(plan.rounds):
        stop = int64(1) if speaks and thread_index() == saying and n == 1 else int64(0)
        wish = agree_to_stop(plan, comm, ballot, stop, limits_of(comm))
        heard[(n * plan.grid + block_index()) * plan.block + thread_index()] = wish


@pytest.mark.parametrize("put", [False, True], ids=["packets", "put"])
@pytest.mark.parametrize("saying", [0, BLOCK - 1])
def test_all_hear_what_one_thread_has_seen(pe, put, saying):
    warps = BLOCK // WARP
    plan = Constants(pes=pe.size, grid=GRID, block=BLOCK, warps=warps, put=put, rounds=ROUNDS)
    heard = pe.device.array(ROUNDS * GRID * BLOCK, np.int64)
    memory = (
        pe.array(2 * pe.size * GRID * 8, "uint32"),
        pe.array(2 * GRID * 8, "uint32"),
        pe.array(pe.size * GRID, "uint64"),
    )
    with pe.communicator() as comm:
        nbytes = 8 + 8 * warps + 4 * (warps + 4)
        pe.run(ask, GRID, BLOCK, plan, comm, *memory, saying, heard, shared_bytes=nbytes, warp=WARP)
    for array in memory:
        array.free()
    found = heard.numpy().reshape(ROUNDS, -1)
    assert found.any(1).tolist() == found.all(1).tolist() == [False, True, False]
