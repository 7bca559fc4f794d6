"""GPU memory for other libraries: DLPack over an address."""

from cuda.core import Buffer
from cuda.core.utils import StridedMemoryView

__all__ = ["exporter"]


def exporter(address, nbytes, shape, dtype, owner):
    """An object with `__dlpack__` and `__dlpack_device__` over this memory, which keeps `owner` alive."""
    buffer = Buffer.from_handle(address, nbytes, owner=owner)
    return StridedMemoryView.from_buffer(buffer, shape, itemsize=dtype.itemsize, dtype=dtype)
