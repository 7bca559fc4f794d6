"""Calls that run again with no host in between (device/backend/README.md)."""

import numpy as np
import pytest

from shmemtp.device import block_index, block_size, kernel, thread_index
from shmemtp.device.backend import NAME


@kernel
def count(array):
    array[block_index() * block_size() + thread_index()] += 1


def test_a_replay_is_all_its_calls(device):
    array = device.array(4, np.int64)
    compiled = device.compile(count, (array,))

    def call():
        launch = device.launch(compiled, 2, 2, (array,), stream=device.stream)
        if NAME == "emulator":
            launch.wait()

    replay = device.replay(call, 5)
    before = array.numpy().copy()
    seconds = [replay.seconds() for _ in range(3)]
    device.synchronize()
    runs = 2 if NAME == "gpu" else 1  # on GPUs one goes before the timed one
    np.testing.assert_array_equal(array.numpy() - before, 3 * runs * 5)
    assert all(0 < each < 10 for each in seconds)


def test_a_call_that_fails_leaves_the_stream_usable(device):
    def fail():
        raise KeyError("mine")

    with pytest.raises(KeyError):
        device.replay(fail, 2).seconds()
    assert not device.capturing(device.stream)
    device.synchronize()
