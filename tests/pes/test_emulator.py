"""What only the emulator promises: errors raised in a kernel end it and reach the host, and misuse is told."""

import contextlib
import time

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
    grid_size,
    int64,
    kernel,
    lane_index,
    load_acquire,
    load_pair,
    local,
    open_lane,
    pause,
    prefetch,
    put,
    shared,
    store_release,
    sync_block,
    sync_warp,
    thread_index,
    uint32,
    uint64,
    warp_size,
)
from shmemtp.device.backend import NAME, Device, Heap, view
from shmemtp.errors import ShmemtpError

pytestmark = pytest.mark.skipif(NAME != "emulator", reason="is about the emulator")


@kernel
def one_thread_raises(flags):
    """The last thread of the last block raises; the others wait for it at a barrier, in the warp, in a spin."""
    if block_index() == grid_size() - 1 and lane_index() == warp_size() - 1:
        raise ValueError("lane gives up")
    if block_index() == 0:
        sync_block()
        while load_acquire(flags, 0) == 0:
            pause()
    sync_warp()
    sync_block()
    while load_acquire(flags, 0) == 0:
        pause()


def test_an_error_ends_the_kernel_and_reaches_the_host(run, device, shape):
    with pytest.raises(ValueError, match="lane gives up"):
        run(one_thread_raises, shape, device.array(1, np.int64))


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
        assert "test_emulator.py" in str(raised.value)


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
def spin(flags):
    if thread_index() == 0:
        store_release(flags, 0, 1)
    while load_acquire(flags, 1) == 0:
        pause()


def test_closing_the_heap_ends_kernels_that_still_run(comm):
    device = Device(0)
    heap = Heap(device, comm)
    flags = view(heap.allocate(16), 2, np.int64)
    launch = device.launch(device.compile(spin, (flags,)), 2, 2, (flags,))
    while flags.numpy()[0] == 0:
        time.sleep(0.001)
    assert not launch.done()
    heap.close()
    assert launch.done()
    with pytest.raises(RuntimeError):
        launch.wait()


@kernel
def write_field(shape, out):
    out[0] = shape.value


def test_constants_of_all_values_share_a_kernel(run, device):
    out = device.array(1, np.float32)
    three, four, float_four = (Constants(value=value, other=True) for value in (3, 4, 4.0))
    compiled = [device.compile(write_field, (constants, out)).entry for constants in (three, four, float_four)]
    assert compiled[0] is compiled[1]
    assert compiled[0] is not compiled[2]
    for constants in (three, four, float_four):
        run(write_field, (1, 1, 1), constants, out)
        assert out.numpy()[0] == constants.value


def test_constants_do_not_change():
    constants = Constants(value=3)
    with pytest.raises(AttributeError, match="value was set"):
        constants.value = 4
    assert constants == Constants(value=3) != Constants(value=3.0)


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


@pytest.mark.parametrize(
    ("grid", "block", "warp", "shared_bytes", "message"),
    [
        (0, 1, 1, 0, "grid 0"),
        (1, 6, 4, 0, "warp 4"),
        (1, 64, 64, 0, "warp 64"),
        (1, 1, 1, 1 << 20, "shared memory"),
        (1, 2048, 1, 0, "1 to 1024 threads"),
    ],
)
def test_launches_that_cannot_be(device, grid, block, warp, shared_bytes, message):
    flags = device.array(2, np.int64)
    with pytest.raises(ShmemtpError, match=message):
        device.launch(spin, grid, block, (flags,), shared_bytes=shared_bytes, warp=warp)


def test_float16_is_taken_as_its_bits(device):
    with pytest.raises(ShmemtpError, match="float16 arrays as uint16"):
        device.compile(spin, (device.array(2, np.float16),))


def test_arguments_of_other_types_than_compiled_for(device):
    compiled = device.compile(spin, (device.array(2, np.int64),))
    with pytest.raises(ShmemtpError, match="spin was compiled for"):
        device.launch(compiled, 1, 1, (device.array(2, np.int32),))


def test_fill_takes_what_fits(device):
    array = device.array(4, np.float32)
    with pytest.raises(ShmemtpError, match="do not fit"):
        array.fill(np.zeros(3, np.float32), start=2)
    with pytest.raises(ShmemtpError, match="float64"):
        array.fill(np.zeros(3))


def test_large_arrays_cost_nothing_until_touched(device):
    began = time.perf_counter()
    array = device.array((1 << 30,), np.float32)
    assert array.nbytes == 4 << 30
    array.free()
    assert time.perf_counter() - began < 0.5


@pytest.mark.parametrize("size", ["many", "-1", "64"])
def test_a_heap_size_that_is_none(comm, monkeypatch, size):
    monkeypatch.setenv("SHMEMTP_HEAP_BYTES", size)
    with pytest.raises(ShmemtpError, match="SHMEMTP_HEAP_BYTES"):
        Heap(Device(0), comm)


def test_the_heap_has_the_size_that_was_set(comm, monkeypatch):
    monkeypatch.setenv("SHMEMTP_HEAP_BYTES", "4096")
    heap = Heap(Device(0), comm)
    first = heap.allocate(4000)
    with pytest.raises(ShmemtpError, match="cannot hold 100 more bytes: 0 of 4096"):
        heap.allocate(100)
    heap.free(first)
    with pytest.raises(ShmemtpError, match="freed before"):
        heap.free(first)
    heap.free(heap.allocate(4096))
    heap.close()


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
