"""A launch put together once and started any number of times."""

from .buffers import Array, view
from .launch import Launch, arguments

__all__ = ["Prepared"]


class Prepared:
    """A kernel with its launch's shape and arguments. Made by `Device.prepare`; keeps the arguments alive."""

    def __init__(self, compiled, grid, block, args, shared_bytes, warp, cluster, early, device):
        self._compiled, self._shape, self._args, self._device = compiled, (grid, block), list(args), device
        self._options, self._early = (shared_bytes, warp, cluster), early

    def start(self, stream=None, changes=None):
        """Starts it at once, whatever the stream: only who waits, host or kernel, orders launches. Returns a `Launch`.

        `changes`: {position in the arguments: a number, or for an array an address}, for this start and later ones.
        The array there has the same shape, and whoever gives the address keeps its memory.
        """
        for position, value in (changes or {}).items():
            self._args[position] = _changed(self._args[position], value)
        args = arguments(self._args)
        return Launch(self._compiled, *self._shape, args, *self._options, self._device, self._early, stream)


def _changed(argument, value):
    return view(value, argument.shape, argument.dtype) if isinstance(argument, Array) else type(argument)(value)
