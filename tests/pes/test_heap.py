"""Symmetric arrays, valid at every PE count."""

import numpy as np
import pytest

from shmemtp.device import function, int64, kernel, peer, thread_index
from shmemtp.device.backend import NAME
from shmemtp.errors import InputError, ShmemtpError


@pytest.mark.parametrize(
    ("shape", "dtype", "full"),
    [((3, 5), "float32", (3, 5)), (7, np.uint16, (7,)), ((), "int64", ()), ((0, 4), "float64", (0, 4))],
)
def test_an_array_is_zeroed_memory(pe, shape, dtype, full):
    with pe.array(shape, dtype) as array:
        assert (array.shape, array.dtype) == (full, np.dtype(dtype))
        assert array.nbytes == np.zeros(full, dtype).nbytes
        assert array.numpy().shape == full
        assert not array.numpy().any()
        assert f"PE {pe.rank} of {pe.size}" in repr(array)


def test_fill_broadcasts_and_keeps_the_dtype(pe):
    with pe.array((2, 3), "float32") as array:
        array.fill(np.arange(3))
        np.testing.assert_array_equal(array.numpy(), np.float32([[0, 1, 2], [0, 1, 2]]))
        array.fill(1.5)
        assert (array.numpy() == 1.5).all()
        with pytest.raises(ValueError):
            array.fill(np.zeros(4))
    with pe.array(3, "int64") as array, pytest.raises(TypeError):
        array.fill(1.5)


def test_numpy_is_a_copy(pe):
    with pe.array(4) as array:
        array.numpy()[:] = 1
        assert not array.numpy().any()


def test_peers_read_and_write_each_other(pe):
    with pe.array((2, pe.size), "int64") as array:
        array.fill(pe.rank)
        pe.barrier()
        for other in range(pe.size):
            assert (array.peer(other).numpy() == other).all()
        pe.barrier()
        right = array.peer((pe.rank + 1) % pe.size)
        right.fill(np.int64(100 + pe.rank))
        pe.barrier()
        assert (array.numpy() == 100 + (pe.rank - 1) % pe.size).all()
        with pytest.raises(InputError, match=f"no PE {pe.size}"):
            array.peer(pe.size)


@function
def mark(array, distance, value):
    peer(array, distance)[thread_index()] = value


@kernel
def mark_neighbour(array, distance, value):
    mark(array, distance, value + int64(thread_index()))


def test_a_kernel_takes_arrays_and_distances(pe, run):
    lanes = 32 if NAME == "gpu" else 2
    with pe.array(lanes, "int64") as array:
        right = pe.team.distances[(pe.rank + 1) % pe.size]
        run(mark_neighbour, (1, lanes, lanes), array.argument, int(right), 10 * pe.rank)
        pe.barrier()
        np.testing.assert_array_equal(array.numpy(), 10 * ((pe.rank - 1) % pe.size) + np.arange(lanes))


def test_different_sizes_are_an_error_everywhere(pe):
    if pe.size > 1:
        told = r"^PEs allocate different symmetric arrays: 16 bytes \(float32\[4\]\) on PE 0, 20 bytes .* on PE 1"
        with pytest.raises(InputError, match=told):
            pe.array(4 if pe.rank == 0 else 5)
    with pe.array(4) as array:  # all are in step
        assert array.nbytes == 16


@pytest.mark.parametrize(("shape", "dtype"), [((-1,), "float32"), (3, "object"), ("x", "float32"), (3, "nonsense")])
def test_nonsense_from_one_pe_is_an_error_everywhere(pe, shape, dtype):
    with pytest.raises(InputError):
        pe.array(*((shape, dtype) if pe.rank == pe.size - 1 else (3, "float32")))


def test_a_heap_without_room_says_so(pe):
    with pytest.raises(ShmemtpError, match="heap"):
        pe.array(2**50, "uint8")


def test_a_freed_array_is_not_used(pe):
    with pe.array(4) as array:
        other = array.peer(0)
    array.free()  # once is enough
    for view in (array, other):
        for use in (lambda v: v.numpy(), lambda v: v.fill(0), lambda v: v.address, lambda v: v.argument):
            with pytest.raises(ShmemtpError, match="was freed"):
                use(view)
        with pytest.raises(ShmemtpError, match="was freed"):
            view.__dlpack__()
    assert "freed" in repr(array)


def test_an_exception_leaves_freeing_to_the_pe(pe):
    with pytest.raises(KeyError):
        with pe.array(4) as array:
            raise KeyError
    assert not array.freed
    array.free()


@pytest.mark.skipif(NAME != "emulator", reason="the memory is the GPU's")
def test_host_libraries_share_the_memory(pe):
    torch = pytest.importorskip("torch")
    with pe.array((2, 3), "float32") as array:
        assert not hasattr(array, "__cuda_array_interface__")
        assert array.__dlpack_device__() == (1, 0)
        for share in (np.asarray, np.from_dlpack, torch.from_dlpack):
            array.fill(0)
            shared = share(array)
            assert tuple(shared.shape) == (2, 3)
            array.fill([1, 2, 3])
            assert float(shared[1, 2]) == 3
        shared[0, 0] = 7  # torch's
        assert array.numpy()[0, 0] == 7
        pe.barrier()
        np.asarray(array.peer(pe.rank))[:] = 9
        assert float(shared[0, 0]) == 9


@pytest.mark.skipif(NAME != "gpu", reason="the memory is the host's")
def test_gpu_libraries_share_the_memory(pe):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    with pe.array((2, 3), "float32") as array:
        assert not hasattr(array, "__array_interface__")
        assert array.__dlpack_device__()[0] == 2
        for share in (torch.from_dlpack, lambda a: torch.as_tensor(a, device="cuda")):
            array.fill(0)
            shared = share(array)
            assert shared.is_cuda and tuple(shared.shape) == (2, 3) and shared.data_ptr() == array.address
            array.fill([1, 2, 3])
            assert shared.cpu().tolist() == [[1, 2, 3]] * 2
            shared[0, 0] = 7
            torch.cuda.synchronize()
            assert array.numpy()[0, 0] == 7


@pytest.mark.skipif(NAME != "gpu", reason="the memory is the host's")
@pytest.mark.parametrize("library", ["cupy", "jax.numpy"])
def test_cupy_and_jax_share_the_memory(pe, library):
    module = pytest.importorskip(library)
    with pe.array((2, 3), "float32") as array:
        array.fill([1, 2, 3])
        shared = module.from_dlpack(array)
        assert np.asarray(shared.get() if library == "cupy" else shared).tolist() == [[1, 2, 3]] * 2
        del shared


def test_bfloat16_is_asked_for_as_its_bits(pe):
    with pytest.raises(InputError, match="bfloat16: kernels take it as uint16"):
        pe.array(4, "bfloat16")
