"""What only the emulator promises: errors raised in a kernel end it and reach the host; its launches and its heap."""

import time

import numpy as np
import pytest

from shmemtp.device import (
    Constants,
    block_index,
    grid_size,
    kernel,
    lane_index,
    load_acquire,
    pause,
    store_release,
    sync_block,
    sync_warp,
    thread_index,
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
