"""Arrays and streams of other libraries, valid at every PE count: what they are taken for, and what is refused."""

import ctypes
import time
from types import SimpleNamespace

import numpy as np
import pytest

from shmemtp.device.backend import NAME
from shmemtp.device.element import KINDS
from shmemtp.errors import InputError
from shmemtp.foreign import KINDS as NAMES
from shmemtp.foreign import Borrowed, borrow, overlap, stream_handle

on_the_host = pytest.mark.skipif(NAME != "emulator", reason="arrays of the host are for the emulator")
on_gpus = pytest.mark.skipif(NAME != "gpu", reason="needs a GPU")


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def cuda(torch, device):
    """torch's name of this PE's GPU."""
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    with torch.cuda.device(device.ordinal):
        yield torch.device("cuda", device.ordinal)


def lent(array, *names):
    """An array of which nothing is known but these interfaces."""
    return SimpleNamespace(**{name: getattr(array, name) for name in names})


class Capsule:
    """An array that has DLPack alone, on the device that it says."""

    def __init__(self, array, device=None):
        self.array, self.streams = array, []
        self.device = device or array.__dlpack_device__()

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, stream=None):
        self.streams.append(stream)
        return self.array.__dlpack__()


def on_gpu(ordinal=1, stream=70):
    """A PE on a GPU that need not be there."""
    return SimpleNamespace(device=SimpleNamespace(ordinal=ordinal, stream=stream, locate=lambda address: ordinal))


def test_kinds_are_those_of_the_device():
    assert {name: number for number, name in enumerate(NAMES)} == KINDS


@pytest.mark.parametrize(
    ("dtype", "told", "kind"),
    [
        ("float32", None, "float32"),
        ("int32", "int32", "int32"),
        ("float16", None, "float16"),
        ("uint16", None, "bfloat16"),
        ("uint16", "bfloat16", "bfloat16"),
        ("uint16", "float16", "float16"),
    ],
)
def test_a_symmetric_array(pe, dtype, told, kind):
    with pe.array((3, 5), dtype) as array:
        for view in (array, array.peer(pe.rank)):
            borrowed = borrow(pe, view, told, write=True)
            assert borrowed == (array.address, 15, KINDS[kind], (3, 5), view)
            assert borrowed.nbytes == array.nbytes


def test_a_freed_array(pe):
    with pe.array(4) as array:
        pass
    with pytest.raises(InputError, match="was freed"):
        borrow(pe, array)


def test_memory_of_the_device(pe, device):
    array = device.array((2, 3), np.float32)
    assert borrow(pe, array)[:4] == (array.address, 6, KINDS["float32"], (2, 3))
    with pytest.raises(InputError, match="say what bits it holds"):
        borrow(pe, device.array(4, np.uint16))
    assert borrow(pe, device.array(4, np.uint16), "bfloat16").kind == KINDS["bfloat16"]


@on_the_host
@pytest.mark.parametrize("dtype", ["float32", "float16", "int32"])
def test_numpy(pe, dtype):
    array = np.zeros((4, 6), dtype)
    assert borrow(pe, array, write=True) == (array.ctypes.data, 24, KINDS[dtype], (4, 6), array)
    assert borrow(pe, array[1:]).address == array.ctypes.data + 6 * array.itemsize
    assert borrow(pe, array[:, :1][:1]).count == 1  # a stride of one row that nothing steps by
    assert borrow(pe, array[:0]).count == 0
    assert borrow(pe, array[0, 0, ...]).shape == ()


@on_the_host
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32"])
@pytest.mark.parametrize("interfaces", ["own", "dlpack"])
def test_torch_on_the_host(pe, torch, dtype, interfaces):
    tensor = torch.zeros((4, 6), dtype=getattr(torch, dtype))
    given = Capsule(tensor) if interfaces == "dlpack" else tensor
    assert borrow(pe, given, write=True)[:4] == (tensor.data_ptr(), 24, KINDS[dtype], (4, 6))
    tail = tensor[1:]
    assert borrow(pe, Capsule(tail) if interfaces == "dlpack" else tail).address == tail.data_ptr()
    with pytest.raises(InputError, match=r"\(shape \[6, 4\]\) is not C-contiguous"):
        borrow(pe, Capsule(tensor.T) if interfaces == "dlpack" else tensor.T)


@on_the_host
def test_a_parameter_of_a_model(pe, torch):
    weight = torch.nn.Parameter(torch.ones(8))
    assert borrow(pe, weight).address == weight.data_ptr()


@on_the_host
@pytest.mark.parametrize(
    ("make", "dtype", "told"),
    [
        (lambda: np.zeros((4, 6), np.float32).T, None, r"shape \[6, 4\]\) is not C-contiguous"),
        (lambda: np.zeros(4), None, "take no float64: their elements are float32, bfloat16, float16, int32"),
        (lambda: np.zeros(4, ">f4"), None, "take no >f4"),
        (lambda: np.zeros(4, np.uint16), None, "is uint16: say what bits it holds, dtype='bfloat16' or 'float16'"),
        (lambda: np.zeros(4, np.uint16), "float32", "is uint16, not float32"),
        (lambda: np.zeros(4, np.float16), "bfloat16", "is float16, not bfloat16"),
        (lambda: np.zeros(4, np.float32), "bf16", "there is no dtype 'bf16'"),
        (lambda: [1.0, 2.0], None, "list is no array"),
    ],
)
def test_what_is_refused(pe, make, dtype, told):
    with pytest.raises(InputError, match=told):
        borrow(pe, make(), dtype)


@on_the_host
def test_what_torch_makes_and_is_refused(pe, torch):
    for dtype, told in ((torch.float64, "take no float64"), (torch.bool, "take no bool")):
        with pytest.raises(InputError, match=told):
            borrow(pe, torch.zeros(4, dtype=dtype))
    with pytest.raises(InputError, match="take no complex64"):
        borrow(pe, Capsule(torch.zeros(4, dtype=torch.complex64)))
    with pytest.raises(InputError, match="on meta"):
        borrow(pe, torch.zeros(4, device="meta"))
    with pytest.raises(InputError, match="does not lend its memory: .*gradient"):
        borrow(pe, Capsule(torch.zeros(4, requires_grad=True)))


@on_the_host
def test_what_is_only_to_be_read(pe):
    array = np.zeros(4, np.float32)
    array.flags.writeable = False
    assert borrow(pe, array).count == 4
    with pytest.raises(InputError, match="only to be read"):
        borrow(pe, array, write=True)


def test_memory_of_the_other_kind(pe, torch):
    host = torch.zeros(4)
    with pytest.raises(InputError, match="is in the host's memory: it must be in that of this PE's GPU, 1"):
        borrow(on_gpu(1), host)
    with pytest.raises(InputError, match="is in the memory of GPU 2: it must be in that of this PE's GPU, 1"):
        borrow(on_gpu(1), Capsule(host, device=(2, 2)))
    with pytest.raises(InputError, match="DLPack's type 8"):
        borrow(on_gpu(1), Capsule(host, device=(8, 0)))
    emulated = SimpleNamespace(device=SimpleNamespace(ordinal=None, stream=None))
    with pytest.raises(InputError, match="memory of GPU 2: in the emulator it must be the host's"):
        borrow(emulated, Capsule(host, device=(2, 2)))


def test_dlpack_is_told_the_stream(torch):
    array = Capsule(torch.zeros(4), device=(2, 1))
    for stream in (None, 0, 99):
        assert borrow(on_gpu(1, stream=70), array, stream=stream).address == array.array.data_ptr()
    assert array.streams == [70, 1, 99]


def cuda_interface(shape=(2, 3), typestr="<f4", read_only=False, strides=None):
    interface = dict(shape=shape, typestr=typestr, data=(4096, read_only), version=3, strides=strides)
    return SimpleNamespace(__cuda_array_interface__=interface)


def test_the_cuda_array_interface():
    assert borrow(on_gpu(), cuda_interface())[:4] == (4096, 6, KINDS["float32"], (2, 3))
    assert borrow(on_gpu(), cuda_interface(typestr="<f2", strides=(6, 2))).kind == KINDS["float16"]
    assert borrow(on_gpu(), cuda_interface(typestr="<u2"), "bfloat16").kind == KINDS["bfloat16"]
    with pytest.raises(InputError, match="not C-contiguous"):
        borrow(on_gpu(), cuda_interface(strides=(4, 8)))
    with pytest.raises(InputError, match="only to be read"):
        borrow(on_gpu(), cuda_interface(read_only=True), write=True)


@on_gpus
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32"])
def test_torch_on_a_gpu(pe, torch, cuda, dtype):
    tensor = torch.zeros((4, 6), dtype=getattr(torch, dtype), device=cuda)
    want = (tensor.data_ptr(), 24, KINDS[dtype], (4, 6))
    assert borrow(pe, tensor, write=True)[:4] == want
    capsule = lent(tensor, "__dlpack__", "__dlpack_device__")
    assert borrow(pe, capsule)[:4] == want
    assert borrow(pe, capsule, stream=torch.cuda.current_stream(cuda).cuda_stream)[:4] == want
    if dtype != "bfloat16":  # which the interface cannot say
        assert borrow(pe, lent(tensor, "__cuda_array_interface__"))[:4] == want
    with pytest.raises(InputError, match="not C-contiguous"):
        borrow(pe, tensor.T)
    with pytest.raises(InputError, match="in the host's memory"):
        borrow(pe, tensor.cpu())


@on_gpus
def test_memory_of_another_gpu(pe, device, torch, cuda):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs another GPU")
    other = (device.ordinal + 1) % torch.cuda.device_count()
    tensor = torch.zeros(4, device=f"cuda:{other}")
    for given in (tensor, lent(tensor, "__cuda_array_interface__"), lent(tensor, "__dlpack__", "__dlpack_device__")):
        with pytest.raises(InputError, match=f"in the memory of GPU {other}"):
            borrow(pe, given)


@on_gpus
@pytest.mark.parametrize("dtype", ["float32", "float16", "int32"])
def test_cupy(pe, device, dtype):
    cupy = pytest.importorskip("cupy")
    with cupy.cuda.Device(device.ordinal):
        array = cupy.zeros((4, 6), dtype)
        stream = cupy.cuda.Stream()
        assert borrow(pe, array, stream=stream_handle(stream))[:4] == (array.data.ptr, 24, KINDS[dtype], (4, 6))


@on_gpus
def test_jax(pe, device):
    jax = pytest.importorskip("jax")
    array = jax.device_put(jax.numpy.ones((4, 6), "bfloat16"), jax.devices("gpu")[device.ordinal])
    borrowed = borrow(pe, array)
    assert borrowed[1:4] == (24, KINDS["bfloat16"], (4, 6))
    assert borrowed.address == array.unsafe_buffer_pointer()


def test_borrowing_is_quick(pe, torch):
    place = torch.device("cuda", pe.device.ordinal) if NAME == "gpu" and torch.cuda.is_available() else None
    if NAME == "gpu" and place is None:
        pytest.skip("this torch has no CUDA")
    tensor = torch.zeros(4096, dtype=torch.bfloat16, device=place)
    best = 1.0
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(100):
            borrow(pe, tensor)
        best = min(best, (time.perf_counter() - began) / 100)
    assert best < 20e-6  # it takes two: this tells a copy or a capsule from none


def test_overlap():
    def at(address, count, kind="float32"):
        return Borrowed(address, count, KINDS[kind], (count,), None)

    assert not overlap(at(1000, 10), at(1000, 10))
    assert not overlap(at(1000, 10), at(1040, 10))
    assert not overlap(at(1000, 10), at(960, 10))
    assert overlap(at(1000, 10), at(1036, 10))
    assert overlap(at(1036, 10), at(1000, 10))
    assert overlap(at(1000, 10), at(1000, 5))
    assert overlap(at(1000, 10), at(1000, 10, "float16"))
    assert not overlap(at(1000, 10, "bfloat16"), at(1020, 10))
    assert not overlap(at(1000, 0), at(1000, 10))


class Protocol:
    def __init__(self, told):
        self.told = told

    def __cuda_stream__(self):
        return self.told


def test_streams(torch):
    assert stream_handle(None) is None
    assert stream_handle(0) == 0
    assert stream_handle(12345) == 12345
    assert stream_handle(SimpleNamespace(cuda_stream=7)) == 7
    assert stream_handle(Protocol((0, 8))) == 8
    assert stream_handle(SimpleNamespace(__cuda_stream__=(0, 9))) == 9  # as it was first
    assert stream_handle(SimpleNamespace(ptr=10)) == 10
    for wrong in (-1, 1.5, True, "stream", Protocol((1, 8)), np.zeros(1), torch.zeros(1)):
        with pytest.raises(InputError, match="is no stream"):
            stream_handle(wrong)


@on_gpus
def test_streams_of_libraries(torch, cuda):
    from cuda.core import Stream

    stream = torch.cuda.Stream(cuda)
    assert stream_handle(stream) == stream.cuda_stream
    assert stream_handle(torch.cuda.default_stream(cuda)) == 0
    assert stream_handle(Stream.from_handle(stream.cuda_stream)) == stream.cuda_stream


@on_the_host
def test_the_memory_is_what_numpy_sees(pe):
    array = np.arange(6, dtype=np.float32)
    borrowed = borrow(pe, array)
    (ctypes.c_float * 6).from_address(borrowed.address)[2] = 70
    assert array.tolist() == [0, 1, 70, 3, 4, 5]


def test_an_array_that_begins_within_an_element(pe):
    if NAME == "gpu":
        pytest.skip("NumPy's arrays are in the host's memory")
    with pytest.raises(InputError, match="begins at no multiple of its elements' 4 bytes"):
        borrow(pe, np.frombuffer(bytearray(64), np.float32, 8, offset=2))
