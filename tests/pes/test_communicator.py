"""Collectives called from the host: on symmetric arrays, NumPy's and torch's; what is wrong is told before a launch."""

import elements
import numpy as np
import pytest

from shmemtp.algorithm import ALGORITHMS
from shmemtp.errors import InputError, ShmemtpError, TimeoutError_

COUNT = 1000


@pytest.fixture(scope="module")
def comm(pe):
    with pe.communicator(lanes=8, packets=64) as made:
        yield made


def given(pe, kind, count, seed=0):
    """This PE's array, symmetric, and what every PE has."""
    all_of_them = [elements.random(kind, count, seed + rank) for rank in range(pe.size)]
    array = pe.array(count, elements.CARRIERS[kind])
    array.fill(all_of_them[pe.rank])
    return array, all_of_them


def options(kind):
    return {"dtype": kind} if kind in ("bfloat16", "float16") else {}


@pytest.mark.parametrize("kind", elements.KINDS)
def test_all_reduce(pe, comm, kind):
    array, values = given(pe, kind, COUNT)
    out = pe.array(COUNT, elements.CARRIERS[kind])
    comm.all_reduce(array, out, **options(kind))
    np.testing.assert_array_equal(out.numpy(), elements.sum_of(kind, values))
    np.testing.assert_array_equal(array.numpy(), values[pe.rank])
    comm.all_reduce(array, **options(kind))
    np.testing.assert_array_equal(array.numpy(), out.numpy())
    array.free(), out.free()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm(pe, algorithm):
    with pe.communicator(algorithm=algorithm, lanes=4, packets=64) as comm:
        for count in (1, 7, 4096):
            array, values = given(pe, "float32", count)
            comm.all_reduce(array)
            np.testing.assert_array_equal(array.numpy(), elements.sum_of("float32", values))
            array.free()


def test_the_other_collectives(pe, comm):
    size = pe.size
    array, values = given(pe, "int32", COUNT * size)
    part, whole = pe.array(COUNT, np.int32), pe.array(COUNT * size, np.int32)
    comm.reduce_scatter(array, part)
    total = elements.sum_of("int32", values).reshape(size, COUNT)
    np.testing.assert_array_equal(part.numpy(), total[pe.rank])
    comm.all_gather(part, whole)
    np.testing.assert_array_equal(whole.numpy(), total.reshape(-1))
    comm.all_to_all(array, whole)
    np.testing.assert_array_equal(
        whole.numpy().reshape(size, COUNT), [sent.reshape(size, COUNT)[pe.rank] for sent in values]
    )
    for root in range(size):
        array.fill(values[pe.rank])
        comm.broadcast(array, root)
        np.testing.assert_array_equal(array.numpy(), values[root])
    for each in (array, part, whole):
        each.free()


@pytest.mark.parametrize("rows", [1, 3, 20])
def test_all_reduce_norm(pe, comm, rows):
    kind, hidden = "bfloat16", 520
    array, values = given(pe, kind, rows * hidden)
    residual, weight = pe.array((rows, hidden), np.uint16), pe.array(hidden, np.uint16)
    before, scale = elements.random(kind, rows * hidden, 77), elements.random(kind, hidden, 78)
    residual.fill(before.reshape(rows, hidden)), weight.fill(scale)
    shaped = pe.array((rows, hidden), np.uint16)
    shaped.fill(array.numpy().reshape(rows, hidden))
    comm.all_reduce_norm(shaped, residual, weight, eps=1e-6)
    total = np.zeros(rows * hidden, np.float32)
    for value in values:
        total = total + elements.widen(kind, value)
    after = elements.narrow(kind, total + elements.widen(kind, before))
    np.testing.assert_array_equal(residual.numpy().reshape(-1), after)
    wide = elements.widen(kind, after).astype(np.float64).reshape(rows, hidden)
    wanted = wide / np.sqrt((wide**2).mean(1, keepdims=True) + 1e-6) * elements.widen(kind, scale)
    np.testing.assert_allclose(elements.widen(kind, shaped.numpy()), wanted, rtol=1.01 * 2**-8, atol=1e-6)
    for each in (array, residual, weight, shaped):
        each.free()


def test_numpy_and_odd_beginnings(pe, comm):
    """An array that begins in the middle of 16 bytes."""
    if pe.backend == "gpu":
        pytest.skip("NumPy's arrays are in the host's memory")
    values = [elements.random("bfloat16", 102, rank) for rank in range(pe.size)]
    mine = values[pe.rank].copy()
    comm.all_reduce(mine[1:], dtype="bfloat16")
    np.testing.assert_array_equal(mine[1:], elements.sum_of("bfloat16", [value[1:] for value in values]))
    assert mine[0] == values[pe.rank][0]


def test_two_at_the_same_time(pe, comm):
    """Interleaved calls on two communicators; on a GPU, in two streams."""
    with pe.communicator(lanes=8, packets=64) as other:
        arrays = [given(pe, "float32", COUNT, seed) for seed in (0, 50)]
        for _ in range(3):
            comm.all_reduce(arrays[0][0])
            other.all_reduce(arrays[1][0])
        for array, values in arrays:
            total = elements.sum_of("float32", values)
            for _ in range(2):
                total = elements.sum_of("float32", [total] * pe.size)
            np.testing.assert_array_equal(array.numpy(), total)
            array.free()


def test_the_pe_has_one_of_its_own(pe):
    array, values = given(pe, "float32", 12)
    pe.all_reduce(array)
    np.testing.assert_array_equal(array.numpy(), elements.sum_of("float32", values))
    array.free()


def test_a_team(pe):
    """Even and odd PEs, each among themselves, at the same time."""
    team = pe.split(pe.rank % 2)
    with pe.communicator(team, lanes=4, packets=64) as comm:
        array, values = given(pe, "float32", COUNT)
        comm.all_reduce(array)
        np.testing.assert_array_equal(array.numpy(), elements.sum_of("float32", [values[p] for p in team.pes]))
        array.free()


def test_what_does_not_fit_is_told_before_a_launch(pe, comm):
    small, large = pe.array(4, np.float32), pe.array(10, np.float32)
    with pytest.raises(InputError, match=r"the sum has 4 elements, and this array, \[10\], has 10"):
        comm.all_reduce(small, large)
    with pytest.raises(InputError, match="array is float32 and out is int32"):
        comm.all_reduce(small, pe.array(4, np.int32))
    with pytest.raises(InputError, match="collectives take no float64"):
        comm.all_reduce(pe.array(4, np.float64))
    with pytest.raises(InputError, match=f"there is no rank {pe.size}"):
        comm.broadcast(small, pe.size)
    if pe.size > 1:
        with pytest.raises(InputError, match=f"make no {pe.size} equal parts"):
            comm.reduce_scatter(pe.array(pe.size + 1, np.float32), small)
    if pe.backend == "emulator":
        both = np.zeros(12, np.float32)
        with pytest.raises(InputError, match="array and out overlap"):
            comm.all_reduce(both[:8], both[4:])
    small.free(), large.free()


def test_lengths_that_differ_between_pes(pe, comm):
    if pe.size == 1:
        pytest.skip("one PE cannot differ")
    short, long = pe.array(49, np.float32), pe.array(50, np.float32)
    with pytest.raises(InputError, match="PEs called different collectives: all_reduce of float32, 50 on PE 0"):
        comm.all_reduce(short if pe.rank else long)
    short.free(), long.free()


def test_a_pe_that_does_not_come(pe):
    if pe.size == 1:
        pytest.skip("nobody to wait for")
    pe.timeout_s, usual = 0.3, pe.timeout_s
    array = pe.array(64, np.float32)
    with pe.communicator(lanes=2, packets=16) as comm:
        pe.timeout_s = usual
        comm.all_reduce(array)
        if pe.rank:
            with pytest.raises(TimeoutError_, match="all_reduce waited 0.3 s for a collective's data from PE 0"):
                comm.all_reduce(array)
        pe.barrier()
        if pe.rank:
            with pytest.raises(TimeoutError_):  # it cannot go on
                comm.all_reduce(array)
    array.free()


def test_memory_that_was_given_back_is_not_used(pe):
    array = pe.array(64, np.float32)
    comm = pe.communicator(lanes=2, packets=16)
    comm.all_reduce(array)
    comm.free()
    comm.free()
    with pytest.raises(ShmemtpError, match="this communicator was freed"):
        comm.all_reduce(array)
    array.free()


@pytest.mark.parametrize(("lanes", "packets"), [(0, 16), (1, 0), (1, 12)])
def test_a_communicator_without_room(pe, lanes, packets):
    with pytest.raises(InputError, match=f"{lanes} lanes of {packets} packets"):
        pe.communicator(lanes=lanes, packets=packets)


def test_vectors_that_are_one_memory(pe, comm):
    first, second, third = (pe.array(64, np.float32) for _ in range(3))
    for array, residual, weight, out in (
        (first, first, second, None),
        (first, second, first, None),
        (first, second, third, third),
        (first, second, second, third),
    ):
        with pytest.raises(InputError, match="residual, weight and out overlap"):
            comm.all_reduce_norm(array, residual, weight, out)
    for each in (first, second, third):
        each.free()


def test_nothing_to_do(pe, comm):
    empty, weight = pe.array((0, 64), np.float32), pe.array(64, np.float32)
    comm.all_reduce(empty)
    comm.all_reduce_norm(empty, pe.array((0, 64), np.float32), weight)
    weight.free()


def test_vectors_of_many_sizes_shared_by_a_cluster(pe):
    """And those of too few bytes, which are a block's alone."""
    with pe.communicator(lanes=20, packets=64) as comm:
        for hidden in (2048, 1024, 64, 2048, 4096, 512):  # 64 of these are too few bytes for a cluster
            array, residual, weight = (pe.array((1, hidden), np.float32) for _ in range(3))
            array.fill(1), residual.fill(2), weight.fill(3)
            flat = pe.array(hidden, np.float32)
            flat.fill(3)
            comm.all_reduce_norm(array, residual, flat)
            np.testing.assert_array_equal(residual.numpy(), 2.0 + pe.size)
            np.testing.assert_allclose(array.numpy(), 3, rtol=1e-5)
            for each in (array, residual, weight, flat):
                each.free()


@pytest.mark.parametrize("lanes", [1, 3])
def test_a_long_vector_with_few_lanes(pe, lanes):
    """Fewer blocks than share a vector: one block does it, with more threads."""
    with pe.communicator(lanes=lanes) as comm:
        array, residual, weight = (pe.array((1, 4096), np.float32), pe.array((1, 4096), np.float32), pe.array(4096))
        array.fill(1), residual.fill(2), weight.fill(3)
        for call in (1, 2):
            comm.all_reduce_norm(array, residual, weight)
            np.testing.assert_allclose(array.numpy(), 3, rtol=1e-5)
            np.testing.assert_allclose(residual.numpy(), 2.0 + pe.size + (call - 1) * 3 * pe.size, rtol=1e-5)
        for each in (array, residual, weight):
            each.free()
