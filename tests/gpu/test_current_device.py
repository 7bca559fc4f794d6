"""Other libraries leave another GPU's context on the thread, a new thread has none: shmemtp works in its own."""

import numpy as np
import pytest
from cuda.bindings import driver

from shmemtp.device import block_index, kernel, thread_index
from shmemtp.device.backend.gpu.errors import check
from shmemtp.device.backend.gpu.node import visible

pytestmark = pytest.mark.gpu


@pytest.fixture(params=["another GPU's", "none"])
def leave(request, pe):
    """leave(): does to the thread's context what another library might."""
    context = 0
    if request.param != "none":
        others = [gpu.ordinal for gpu in visible() if gpu.ordinal != pe.device.ordinal]
        if not others:
            pytest.skip("needs another GPU")
        context = check(driver.cuDevicePrimaryCtxRetain(others[0]))
    return lambda: check(driver.cuCtxSetCurrent(context))


@kernel
def count(array):
    if thread_index() == 0:
        array[block_index()] += 1


def test_symmetric_memory(pe, leave):
    leave()
    with pe.array(4, "int64") as array:
        for use in (lambda: array.fill(5), lambda: pe.run(count, 4, 32, array)):
            leave()
            use()
        leave()
        assert array.numpy().tolist() == [6] * 4
        leave()


def test_memory_of_the_device(pe, leave):
    device = pe.device
    leave()
    array, mapped = device.array(4, np.int64), device.mapped(4, np.int64)
    leave()
    assert device.locate(array.address) == device.ordinal
    for stream in (None, 0):
        for target in (array, mapped):
            leave()
            compiled = device.compile(count, (target,))
            leave()
            launch = device.launch(compiled, 4, 32, (target,), stream=stream)
            leave()
            launch.wait()
    assert (array.numpy() == 2).all()
    assert (mapped.host == 2).all()
    leave()
    assert 0 < device.memory()[0]
