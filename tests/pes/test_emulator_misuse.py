"""What the emulator tells whoever writes a kernel, at once, where a GPU would do something else."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from numba.core.errors import TypingError

from shmemtp.device import (
    BFLOAT16,
    FLOAT32,
    Constants,
    all_reduce_block,
    barrier_expect,
    barrier_init,
    block_index,
    bulk_load,
    function,
    int64,
    kernel,
    load_acquire,
    load_pair,
    local,
    open_lane,
    prefetch,
    put,
    shared,
    sync_block,
    sync_warp,
    thread_index,
    uint32,
    uint64,
)
from shmemtp.device.backend import NAME

pytestmark = pytest.mark.skipif(NAME != "emulator", reason="is about the emulator")


LENGTH = 4


@kernel
def keeps_what_it_may(shape):
    local(3, uint32)[0] = local(LENGTH, uint32)[0] = local(shape.length, uint32)[0] = uint32(1)


@kernel
def keeps_twice(shape):
    local(2 * LENGTH, uint32)[0] = uint32(1)


@function
def keep(shape):
    local(min(shape.length, 8), uint32)[0] = uint32(1)


@kernel
def keeps_in_a_function(shape):
    keep(shape)


def test_a_private_array_whose_size_a_gpu_could_not_know(run):
    run(keeps_what_it_may, (1, 1, 1), Constants(length=2))
    for wrong in (keeps_twice, keeps_in_a_function):
        with pytest.raises(TypingError, match=r"count of local\(\) must be a constant") as raised:
            run(wrong, (1, 1, 1), Constants(length=2))
        assert Path(__file__).name in str(raised.value)


@kernel
def reach(source, i, nbytes, hint):
    target, barrier = shared(0, 64, uint32), shared(256, 1, uint64)
    barrier_init(barrier, 0)
    if hint:
        prefetch(source, i, nbytes)
    else:
        barrier_expect(barrier, 0, nbytes)
        bulk_load(target, 0, source, i, nbytes, barrier, 0)


@pytest.mark.parametrize("hint", [0, 1], ids=["copy", "hint"])
def test_what_the_copy_engine_is_told_lies_in_the_array(run, device, hint):
    source = device.array(64, np.uint32)
    run(reach, (1, 1, 1), source, 32, 128, hint, shared_bytes=272)
    for i, nbytes in ((36, 128), (-4, 16), (64, 16)):
        with pytest.raises(IndexError, match="beyond an array"):
            run(reach, (1, 1, 1), source, i, nbytes, hint, shared_bytes=272)


@kernel
def load_two(source, i):
    load_pair(source, i)


@kernel
def load_one(source, i):
    load_acquire(source, i)


def test_loads_are_checked_on_request(run, device, monkeypatch):
    """As `array[i]` is: Numba does that. A kernel of before is another one."""
    monkeypatch.setattr("numba.config.BOUNDSCHECK", 1)
    source = device.array(4, np.uint32)
    for loads, most in ((load_two, 2), (load_one, 3)):
        run(loads, (1, 1, 1), source, most)
        for wrong in (-1, most + 1):
            with pytest.raises(IndexError, match="beyond an array"):
                run(loads, (1, 1, 1), source, wrong)


@kernel
def send(target, source, to, start, count):
    put(target, to, source, start, count, 0)


def test_what_a_put_is_told_lies_in_the_arrays(run, symmetric):
    target, source = symmetric(8, np.float32), symmetric(8, np.float32)
    run(send, (1, 1, 1), target, source, 4, 4, 4)
    for to, start, count in ((5, 4, 4), (4, 5, 4), (-1, 0, 2), (0, 0, 9)):
        with pytest.raises(IndexError, match="beyond an array"):
            run(send, (1, 1, 1), target, source, to, start, count)


@kernel
def reduce_wrongly(comm, values, kind, start, count):
    lane = open_lane(comm, local(comm.shape.lane_words, int64))
    all_reduce_block(lane, kind, values, start, values, start, count)


@kernel
def open_in_too_little(comm):
    open_lane(comm, local(1, int64))


def test_what_a_collective_is_told_is_checked(pe, device):
    with pe.communicator() as comm:
        values = device.array(100, np.float32)
        for kind, start, count in ((FLOAT32, 0, 101), (FLOAT32, 1, 100), (FLOAT32, 0, -5), (FLOAT32, -1, 5)):
            with pytest.raises(IndexError, match="of elements that its array has not"):
                pe.run(reduce_wrongly, 1, 4, comm, values, kind, start, count)
        for kind in (7, -1, BFLOAT16):
            with pytest.raises(TypeError, match="a collective's kind is none, or not of its array's elements"):
                pe.run(reduce_wrongly, 1, 4, comm, values, kind, 0, 100)
        with pytest.raises(IndexError, match="open_lane's state is too small"):
            pe.run(open_in_too_little, 1, 4, comm)


@kernel
def put_to(target, source, pe):
    put(target, 0, source, 0, 1, pe)


@pytest.mark.parametrize("beyond", [-1, 0])
def test_no_such_pe(run, symmetric, comm, beyond):
    target = symmetric(1, np.int64)
    with pytest.raises(IndexError, match="no such PE"):
        run(put_to, (1, 1, 1), target, target, beyond if beyond < 0 else comm.size)


@kernel
def write_shared(offset, count):
    words = shared(offset, count, uint32)
    words[count - 1] = uint32(1)


@pytest.mark.parametrize(("offset", "count", "fits"), [(0, 4, True), (8, 2, True), (0, 5, False), (12, 2, False)])
def test_shared_memory_ends_where_the_launch_says(run, offset, count, fits):
    with contextlib.nullcontext() if fits else pytest.raises(IndexError, match="beyond the launch's shared_bytes"):
        run(write_shared, (2, 2, 1), offset, count, shared_bytes=16)


@kernel
def one_goes_too_far():
    if block_index() == 1 and thread_index() == 2:
        shared(0, 5, uint32)


def test_an_error_says_where(run, comm):
    told = rf"shared_bytes \(in one_goes_too_far, PE {comm.rank}, block 1, thread 2\)$"
    with pytest.raises(IndexError, match=told):
        run(one_goes_too_far, (2, 4, 1), shared_bytes=16)


@kernel
def not_all_meet(block_wide):
    """The last thread leaves; the others wait for it."""
    if thread_index() < 3:
        if block_wide[0] != 0:
            sync_block()
        else:
            sync_warp()


@pytest.mark.parametrize("block_wide", [0, 1])
def test_a_barrier_that_a_thread_does_not_reach_is_told(device, block_wide):
    flags = device.array(1, np.int64)
    flags.fill(np.array([block_wide]))
    compiled = device.compile(not_all_meet, (flags,))
    with pytest.raises(RuntimeError, match="not all of its threads reach"):
        device.launch(compiled, 2, 4, (flags,), warp=4).wait()


def test_a_put_to_what_is_not_symmetric_is_told(run, device, comm):
    own = device.array(1, np.int64)
    with pytest.raises(IndexError, match="no symmetric array"):
        run(put_to, (1, 1, 1), own, own, comm.size - 1)
    comm.Barrier()
