"""Launches prepared once, on the caller's streams, in CUDA graphs, started early (device/backend/README.md)."""

import numpy as np
import pytest

from shmemtp.device import (
    block_index,
    block_size,
    clock,
    function,
    grid_size,
    kernel,
    pause,
    start_next_kernel,
    thread_index,
    wait_for_prior_kernel,
)
from shmemtp.device.backend import NAME
from shmemtp.errors import ShmemtpError

on_gpus = pytest.mark.skipif(NAME != "gpu", reason="needs a GPU: the emulator has no streams")
GRID, BLOCK = (4, 64) if NAME == "gpu" else (2, 2)
SIZE = 1000


@pytest.fixture
def cuda(device):
    """torch.cuda on this PE's GPU."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    with torch.cuda.device(device.ordinal):
        yield torch.cuda


@function
def first():
    return block_index() * block_size() + thread_index()


@function
def threads():
    return grid_size() * block_size()


@kernel
def add(target, source, number):
    for i in range(first(), target.shape[0], threads()):
        target[i] = source[i] + number


@kernel
def produce(target, times, number, nanoseconds):
    """Lets the next kernel start, and writes when a while has passed."""
    wait_for_prior_kernel()
    start_next_kernel()
    began = clock()
    while clock() - began < nanoseconds:
        pause()
    for i in range(first(), target.shape[0], threads()):
        target[i] = number + i
    if first() == 0:
        times[0] = clock()


@kernel
def consume(target, source, times):
    """Reads what the kernel before has written."""
    if first() == 0:
        times[1] = clock()
    wait_for_prior_kernel()
    for i in range(first(), target.shape[0], threads()):
        target[i] = source[i]


def arrays(device, count):
    """So many arrays of SIZE int64, of which array n holds n * 1000, n * 1000 + 1, ..."""
    made = [device.array(SIZE, np.int64) for _ in range(count)]
    for n, array in enumerate(made):
        array.fill(1000 * n + np.arange(SIZE))
    return made


def prepare(device, kernel, *args, **options):
    return device.prepare(device.compile(kernel, args, block=BLOCK), GRID, BLOCK, args, **options)


@pytest.mark.parametrize("together", [True, False])
def test_a_launch_is_prepared_once(device, together):
    source, other, target, last = arrays(device, 4)
    prepared = prepare(device, add, target, source, 5, together=together)
    prepared.start().wait()
    np.testing.assert_array_equal(target.numpy(), source.numpy() + 5)
    prepared.start(changes={1: other.address, 2: -7}).wait()
    np.testing.assert_array_equal(target.numpy(), other.numpy() - 7)
    prepared.start(changes={0: last.address}).wait()  # with what was changed before
    np.testing.assert_array_equal(last.numpy(), other.numpy() - 7)
    for _ in range(20):
        prepared.start(changes={1: last.address}).wait()
    np.testing.assert_array_equal(last.numpy(), other.numpy() - 7 * 21)


def test_its_arguments_stay(device):
    """Whoever prepared it need not hold what it takes."""
    (target,) = arrays(device, 1)
    prepared = prepare(device, add, target, device.array(SIZE, np.int64), 5)
    arrays(device, 4)
    prepared.start().wait()
    np.testing.assert_array_equal(target.numpy(), 5)


def test_each_keeps_its_shared_memory(device):
    """A launch that asks for less shared memory leaves those that ask for more what they need."""
    source, target = arrays(device, 2)
    args = (target, source, 1)
    compiled = device.compile(add, args, block=BLOCK)
    sizes = (100 * 1024, device.shared_bytes, 1024, 60 * 1024)
    prepared = [device.prepare(compiled, GRID, BLOCK, args, shared_bytes=size) for size in sizes]
    for launch in prepared:
        launch.start().wait()
    np.testing.assert_array_equal(target.numpy(), source.numpy() + 1)


def test_launching_is_preparing_and_starting(device):
    source, target = arrays(device, 2)
    args = (target, source, 5)
    compiled = device.compile(add, args, block=BLOCK)
    for options in ({}, {"together": False}, {"early": True}, {"together": False, "early": True}):
        device.launch(compiled, GRID, BLOCK, args, **options)
        device.synchronize()
        np.testing.assert_array_equal(target.numpy(), source.numpy() + 5)
        target.fill(source.numpy())


def test_a_stream_of_nobody_is_not_captured(device):
    assert device.capturing() is False
    array = device.array(4, np.int64)
    assert device.locate(array.address) == device.ordinal
    assert (device.stream is None) == (NAME == "emulator")


def test_words_of_launches_mean_nothing_to_a_lone_kernel(device):
    """One after the other, not launched early."""
    source, target = arrays(device, 2)
    times = device.array(2, np.int64)
    prepare(device, produce, source, times, 70, 0).start().wait()
    prepare(device, consume, target, source, times).start().wait()
    np.testing.assert_array_equal(target.numpy(), 70 + np.arange(SIZE))


@pytest.mark.skipif(NAME != "emulator", reason="is about the emulator")
def test_the_emulator_takes_any_stream(device):
    source, target = arrays(device, 2)
    prepare(device, add, target, source, 5).start(stream=12345).wait()
    np.testing.assert_array_equal(target.numpy(), source.numpy() + 5)
    with pytest.raises(ShmemtpError, match="compiled for"):
        device.prepare(device.compile(add, (target, source, 5)), 1, 1, (target, source, np.float32(5)))


@on_gpus
def test_on_the_callers_stream(device, cuda):
    """Between torch's own kernels, with no wait of the host."""
    import torch

    stream = cuda.Stream()
    x = torch.zeros(SIZE, dtype=torch.int64, device="cuda")
    y = torch.zeros_like(x)
    prepared = prepare(device, add, *arrays(device, 2), 5)
    cuda.synchronize()
    with cuda.stream(stream):
        for n in range(50):
            x.fill_(n)
            prepared.start(stream.cuda_stream, {0: y.data_ptr(), 1: x.data_ptr()})
            x.copy_(y)
            x.mul_(2)
    device.synchronize(stream.cuda_stream)
    assert (x == 2 * (49 + 5)).all()
    prepared.start(0).wait()  # CUDA's default stream
    assert (y == 2 * (49 + 5) + 5).all()


@on_gpus
@pytest.mark.parametrize("together", [True, False])
def test_in_a_cuda_graph(device, cuda, together):
    import torch

    x = torch.zeros(SIZE, dtype=torch.int64, device="cuda")
    target, source = arrays(device, 2)
    prepared = prepare(device, add, target, source, 5, together=together)
    stream, graph = cuda.Stream(), cuda.CUDAGraph()
    cuda.synchronize()
    with cuda.graph(graph, stream=stream):
        handle = cuda.current_stream().cuda_stream
        assert handle == stream.cuda_stream
        assert device.capturing(handle) is True
        assert device.capturing() is False  # the device's own
        prepared.start(handle, {0: x.data_ptr(), 1: x.data_ptr()})
        prepared.start(handle, {2: 7})
    assert device.capturing(handle) is False
    prepared.start(changes={0: target.address, 2: 100}).wait()  # what was captured stays
    assert (x == 0).all()
    for _ in range(3):
        graph.replay()
    cuda.synchronize()
    assert (x == 3 * (5 + 7)).all()


def hand_over(device, handle, together, rounds):
    """`rounds` pairs of kernels on one stream, of which the second starts early; returns them, ready to be started."""
    source, target = arrays(device, 2)
    times = device.array(2, np.int64)
    first = prepare(device, produce, source, times, 0, 500_000, together=together, early=True)
    second = prepare(device, consume, target, source, times, together=together, early=True)
    results = [device.array(SIZE, np.int64) for _ in range(rounds)]

    def start():
        for n, result in enumerate(results):
            first.start(handle, {2: 10_000 * n})
            second.start(handle, {0: result.address})

    return start, results, times


@on_gpus
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("captured", [True, False])
def test_a_kernel_started_early_waits_for_the_one_before(device, cuda, together, captured):
    stream, rounds = cuda.Stream(), 8
    start, results, times = hand_over(device, stream.cuda_stream, together, rounds)
    if captured:
        graph = cuda.CUDAGraph()
        with cuda.graph(graph, stream=stream):
            start()
        with cuda.stream(stream):
            graph.replay()
            graph.replay()
    else:
        start()
    device.synchronize(stream.cuda_stream)
    for n, result in enumerate(results):
        np.testing.assert_array_equal(result.numpy(), 10_000 * n + np.arange(SIZE))
    wrote, began = times.numpy()
    print(f"the second kernel began {(wrote - began) / 1000:.1f} us before the first had written")


@on_gpus
def test_early_is_early(device, cuda):
    """The second kernel runs while the first does: with the driver free to overlap them or not, it does once in ten."""
    stream = cuda.Stream()
    for _ in range(10):
        start, _, times = hand_over(device, stream.cuda_stream, together=False, rounds=1)
        start()
        device.synchronize(stream.cuda_stream)
        wrote, began = times.numpy()
        if began < wrote:
            return
    pytest.fail(f"the second kernel began {began - wrote} ns after the first had written")
