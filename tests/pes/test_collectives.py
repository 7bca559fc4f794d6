"""The device's collectives against NumPy, bit for bit: kinds, lengths, launches, algorithms, many in one kernel."""

import elements
import numpy as np
import pytest
from collecting import ALGORITHMS, ALL_GATHER, ALL_REDUCE, BROADCAST, OPERATIONS, REDUCE_SCATTER, Messages, channel

from shmemtp.device import (
    FLOAT32,
    Constants,
    all_gather_block,
    all_gather_grid,
    all_reduce_block,
    all_reduce_grid,
    all_to_all_block,
    all_to_all_grid,
    all_to_all_v_block,
    all_to_all_v_grid,
    barrier_all_grid,
    block_index,
    block_size,
    broadcast_block,
    broadcast_grid,
    function,
    grid_size,
    int64,
    kernel,
    load_relaxed,
    local,
    open_lane,
    peer,
    reduce_scatter_block,
    reduce_scatter_grid,
    signal,
    thread_index,
    uint64,
)
from shmemtp.device.backend import NAME
from shmemtp.device.element import KINDS
from shmemtp.errors import InputError, TimeoutError_

LENGTHS = (1, 2, 3, 4, 5, 30, 31, 64, 257)  # elements; an exchange of a lane carries 16 packets
MANY = 3000 if NAME == "gpu" else 300


@function
def run_block(operation, kind, lane, source, start, target, to, count, root):
    if operation == ALL_REDUCE:
        all_reduce_block(lane, kind, source, start, target, to, count)
    elif operation == REDUCE_SCATTER:
        reduce_scatter_block(lane, kind, source, start, target, to, count)
    elif operation == ALL_GATHER:
        all_gather_block(lane, kind, source, start, target, to, count)
    elif operation == BROADCAST:
        broadcast_block(lane, kind, source, start, target, to, count, root)
    else:
        all_to_all_block(lane, kind, source, start, target, to, count)


@function
def run_grid(operation, kind, lane, source, start, target, to, count, root):
    if operation == ALL_REDUCE:
        all_reduce_grid(lane, kind, source, start, target, to, count)
    elif operation == REDUCE_SCATTER:
        reduce_scatter_grid(lane, kind, source, start, target, to, count)
    elif operation == ALL_GATHER:
        all_gather_grid(lane, kind, source, start, target, to, count)
    elif operation == BROADCAST:
        broadcast_grid(lane, kind, source, start, target, to, count, root)
    else:
        all_to_all_grid(lane, kind, source, start, target, to, count)


@kernel
def run_all(operation, kind, comm, source, target, lengths, starts, tos, whole_grid):
    """One collective after another: lengths[n] elements from starts[n] on to tos[n], with root n % pes."""
    lane = open_lane(comm, local(comm.shape.lane_words, int64))
    for n in range(lengths.size):
        if whole_grid:
            run_grid(operation, kind, lane, source, starts[n], target, tos[n], lengths[n], n % comm.shape.pes)
        elif block_index() == n % comm.shape.lanes:
            run_block(operation, kind, lane, source, starts[n], target, tos[n], lengths[n], n % comm.shape.pes)


def run(pe, comm, shape, messages, whole_grid=True):
    grid, block, warp = shape
    device = pe.device
    source, target = (
        device.array(len(messages.source), messages.source.dtype),
        device.array(len(messages.untouched), messages.untouched.dtype),
    )
    source.fill(messages.source)
    target.fill(messages.untouched)
    numbers = [device.array(len(messages.lengths), np.int64) for _ in range(3)]
    for array, values in zip(numbers, (messages.lengths, messages.starts, messages.tos), strict=True):
        array.fill(np.array(values, np.int64))
    args = (messages.operation, KINDS[messages.kind], comm, source, target, *numbers, int(whole_grid))
    pe.run(run_all, grid, block, *args, warp=warp)
    comm.check("run_all")
    messages.check(target.numpy())


@pytest.mark.parametrize("kind", elements.KINDS)
@pytest.mark.parametrize("operation", range(5), ids=OPERATIONS)
def test_every_kind_and_length(pe, operation, kind):
    comm = channel(pe, "one-shot", 4)
    run(pe, comm, (4, 32, 32) if NAME == "gpu" else (3, 2, 1), Messages(pe, operation, kind, LENGTHS))
    comm.free()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("operation", range(5), ids=OPERATIONS)
def test_every_algorithm(pe, operation, algorithm):
    comm = channel(pe, algorithm, 4)
    run(pe, comm, (4, 64, 32) if NAME == "gpu" else (2, 2, 1), Messages(pe, operation, "bfloat16", LENGTHS))
    comm.free()


@pytest.mark.parametrize("whole_grid", [False, True], ids=["block", "grid"])
def test_every_launch(pe, shape, whole_grid):
    comm = channel(pe, "two-shot", shape[0])
    run(pe, comm, shape, Messages(pe, ALL_REDUCE, "float32", LENGTHS), whole_grid)
    comm.free()


@pytest.mark.parametrize("shape", [(1, 32, 32), (2, 96, 32)] if NAME == "gpu" else [(1, 15, 1), (2, 8, 4)], ids=str)
def test_blocks_that_are_not_whole_lines(pe, shape):
    """A thread more or less than the places of a line, or than its packets."""
    comm = channel(pe, "one-shot, lines", shape[0])
    run(pe, comm, shape, Messages(pe, ALL_REDUCE, "float32", LENGTHS))
    comm.free()


@pytest.mark.parametrize("algorithm", ["one-shot", "two-shot", "one-shot, lines", "two-shot, lines", "two-shot-put"])
def test_many_in_one_kernel_over_the_epochs_wrap(pe, algorithm):
    """Lengths that leave most slots of an exchange unused, then use them; a packet's tag has 32 bits."""
    comm = channel(pe, algorithm, 2)
    comm.set_epochs((1 << 32) - MANY // 3)
    lengths = np.random.default_rng(1).choice([1, 3, 40, 130], MANY).tolist()
    run(pe, comm, (2, 32, 32) if NAME == "gpu" else (2, 1, 1), Messages(pe, ALL_REDUCE, "float32", lengths))
    comm.free()


@pytest.mark.parametrize("operation", range(5), ids=OPERATIONS)
def test_a_channel_serves_launches_of_different_shapes(pe, operation):
    comm = channel(pe, "one-shot", 5)
    for grid in (5, 1, 3):
        run(pe, comm, (grid, 32, 32) if NAME == "gpu" else (grid, 1, 1), Messages(pe, operation, "int32", LENGTHS))
    comm.free()


@kernel
def all_to_all_v(comm, case, source, starts, counts, target, tos, counts_here, most, whole_grid):
    lane = open_lane(comm, local(comm.shape.lane_words, int64))
    for _ in range(3):
        if whole_grid:
            all_to_all_v_grid(lane, case.kind, source, starts, counts, target, tos, counts_here, most)
        elif block_index() == 0:
            all_to_all_v_block(lane, case.kind, source, starts, counts, target, tos, counts_here, most)


@pytest.mark.parametrize("whole_grid", [False, True], ids=["block", "grid"])
@pytest.mark.parametrize("algorithm", ["one-shot", "one-shot-put"])
def test_all_to_all_with_counts(pe, algorithm, whole_grid):
    """Counts from nothing to several exchanges; some PEs say nothing to some."""
    kind, device, rank = "bfloat16", pe.device, pe.rank
    generator = np.random.default_rng(5)
    counts = generator.integers(0, 200, (pe.size, pe.size)) * (generator.random((pe.size, pe.size)) < 0.7)
    sources = [elements.random(kind, int(counts[p].sum()) + 1, p) for p in range(pe.size)]
    starts = np.concatenate([np.zeros((pe.size, 1), int), np.cumsum(counts, 1)], 1)
    arrays = [device.array(pe.size, np.int64) for _ in range(4)]
    tos = np.concatenate([[0], np.cumsum(counts[:, rank])])
    for array, values in zip(arrays, (starts[rank, :-1], counts[rank], tos[:-1], counts[:, rank]), strict=True):
        array.fill(np.ascontiguousarray(values, np.int64))
    source, target = device.array(len(sources[rank]), np.uint16), device.array(int(tos[-1]) + 1, np.uint16)
    source.fill(sources[rank])
    comm = channel(pe, algorithm, 2)
    pe.run(
        all_to_all_v,
        *(2, 32 if NAME == "gpu" else 2),
        *(
            comm,
            Constants(kind=KINDS[kind]),
            source,
            *arrays[:2],
            target,
            *arrays[2:],
            int(counts.max()),
            int(whole_grid),
        ),
    )
    comm.check("all_to_all_v")
    right = [sources[p][starts[p, rank] : starts[p, rank + 1]] for p in range(pe.size)]
    np.testing.assert_array_equal(target.numpy(), np.concatenate([*right, [0]]))
    comm.free()


@kernel
def in_place(comm, kind, values, count):
    lane = open_lane(comm, local(comm.shape.lane_words, int64))
    all_reduce_grid(lane, kind.kind, values, 0, values, 0, count)


@pytest.mark.parametrize("algorithm", ["one-shot", "two-shot", "two-shot, lines"])
def test_in_place(pe, algorithm):
    comm, count = channel(pe, algorithm, 3), 301
    given = [elements.random("float16", count, rank) for rank in range(pe.size)]
    values = pe.device.array(count, np.uint16)
    values.fill(given[pe.rank])
    pe.run(in_place, 3, 32 if NAME == "gpu" else 1, comm, Constants(kind=KINDS["float16"]), values, count)
    comm.check("in_place")
    np.testing.assert_array_equal(values.numpy(), elements.sum_of("float16", given))
    comm.free()


@kernel
def ring(comm, values, wrong, rounds):
    """Every block tells the next PE; after the barrier every block can read what all blocks of the PE before told."""
    lane = open_lane(comm, local(comm.shape.lane_words, int64))
    if comm.shape.put:
        there = values
    else:
        there = peer(values, comm.distances[(comm.rank + 1) % comm.shape.pes])
    for n in range(rounds):
        if thread_index() == 0 and not comm.shape.put:
            there[block_index()] = n + block_index()
        elif thread_index() == 0:
            signal(values, block_index(), n + block_index(), comm.pes[(comm.rank + 1) % comm.shape.pes])
        barrier_all_grid(lane)
        for block in range(thread_index(), grid_size(), block_size()):
            if load_relaxed(values, block) != uint64(n + block):
                wrong[block_index()] += 1
        barrier_all_grid(lane)


@pytest.mark.parametrize("algorithm", ["one-shot", "one-shot-put"])
def test_barrier_of_all_blocks_of_all_pes(pe, algorithm):
    grid = 5
    comm, wrong = channel(pe, algorithm, grid), pe.device.array(grid, np.int64)
    with pe.array(grid, np.uint64) as values:
        pe.run(ring, grid, 32 if NAME == "gpu" else 1, comm, values, wrong, 50)
    comm.check("ring")
    np.testing.assert_array_equal(wrong.numpy(), np.zeros(grid))
    comm.free()


@kernel
def alone(comm, values):
    lane = open_lane(comm, local(comm.shape.lane_words, int64))
    all_reduce_grid(lane, FLOAT32, values, 0, values, 0, 4)


def test_a_pe_that_does_not_come_is_named(pe):
    if pe.size == 1:
        pytest.skip("nobody to wait for")
    pe.timeout_s, usual = 0.2, pe.timeout_s
    comm = channel(pe, "one-shot", 1)
    pe.timeout_s = usual
    values = pe.device.array(4, np.float32)
    if pe.rank != 1:
        with pytest.raises(TimeoutError_, match="a collective's data from PE 1"):
            pe.run(alone, 1, 32 if NAME == "gpu" else 1, comm, values)
            comm.check("alone")
    pe.barrier()
    comm.free()


def test_more_blocks_than_lanes(pe):
    comm = channel(pe, "one-shot", 2)
    with pytest.raises(InputError, match="3 blocks, and a communicator of 2 lanes"):
        pe.run(alone, 3, 32 if NAME == "gpu" else 1, comm, pe.device.array(4, np.float32))
    comm.free()
