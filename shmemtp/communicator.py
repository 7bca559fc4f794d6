"""Collectives as calls from the host: on the arrays of any library, on its streams, in its CUDA graphs."""

from typing import TYPE_CHECKING

from .agreement import agree
from .algorithm import NEVER, Choice, choose
from .calls import CLUSTER, Calls
from .channel import Channel, Extent
from .errors import InputError
from .foreign import ITEM_BYTES, KINDS, Borrowed, borrow, overlap, stream_handle

if TYPE_CHECKING:
    from .runtime import PE, Team

__all__ = ["Communicator"]

LANES = 128  # blocks of a kernel
PACKETS = 1024  # of a lane and sender in one exchange: a vector of 4096 elements of 2 bytes
RUN = 8  # packets that stand and are dealt together (device/communicator.py)
MOST_ELEMENTS = (1 << 31) - 1  # kernels count packets in 32 bits
PACKET = 8  # bytes
LINE_BYTES = 64 << 10  # of a message from which on it travels in lines, where they arrive whole
MOST_HIDDEN = 16384  # bytes of a vector that is normalised: 512 threads keep four packets of 8 bytes


class Communicator:
    """A team's collectives, one at a time. Made by `PE.communicator`. Two may be at work at the same time if their
    kernels fit the device together: a kernel has up to `lanes` blocks, and waits for the same blocks of other PEs.

    In a kernel: an argument of `PE.run`, of which it opens a lane (`shmemtp.device.open_lane`). From the host, by all
    PEs of the team in the same order: the methods here. Their arrays are C-contiguous, of float32, bfloat16, float16 or
    int32, in the memory of this PE's device: symmetric arrays, torch tensors, or anything with DLPack or an array
    interface (NumPy, which has no bfloat16, in uint16 and `dtype="bfloat16"`). A result may be written over its input.

    `stream`, a handle or another library's stream object: the call returns at once, can be captured in a CUDA graph,
    and may start while the kernel before it ends. None: it runs on the PE's own stream and returns when done; what
    other streams still do to the arrays, or with this communicator, must have ended. The first call of an operation,
    dtype and size is collective on the host, compiles, and cannot be captured.

    InputError before anything is launched: arrays that do not fit each other or this device, PEs that ask for different
    things in such a first call. TimeoutError_, from this call or the next, or from `check`: a PE did not come.
    """

    def __init__(self, pe: "PE", team: "Team | None", algorithm: str | Choice, lanes: int, packets: int):
        self.team = team or pe.team
        self.choice = choose(pe, algorithm, self.team)
        agree(self.team.comm, "lanes and packets", (lanes, packets), "made communicators with")
        if lanes < 1 or packets < RUN or packets % RUN:
            raise InputError(f"{lanes} lanes of {packets} packets: at least 1, and a multiple of {RUN}")
        self._pe, self._freed = pe, False
        line_bytes = LINE_BYTES if pe.topology.of(self.team.pes).whole_lines else NEVER
        extent = Extent(lanes, packets, self.choice.put, MOST_HIDDEN // 8, line_bytes)
        self._channel = Channel(pe, self.team, extent, self.choice.two_shot_bytes)
        self._calls = Calls(pe, self.team, self._channel, self.choice)

    @property
    def argument(self):
        return self._channel.argument

    @property
    def lanes(self) -> int:
        """The most blocks that a kernel can have which uses it."""
        return self._channel.lanes

    @property
    def freed(self) -> bool:
        return self._freed or self._pe.closed

    def check(self, kernel: str = "a collective"):
        """Raises TimeoutError_ if a wait of a call, or of `kernel`, that has ended ran out."""
        self._channel.check(kernel)

    def all_reduce(self, array, out=None, *, dtype=None, stream=None):
        """`out` (None: `array` itself) gets the sum of the PEs' arrays, the same bits on each PE."""
        source, target, handle = self._borrow(array, array if out is None else out, dtype, stream)
        self._expect(target, source.count, "the sum")
        self._call("all_reduce", (source, target), (source.count,), source.nbytes, handle)

    def all_gather(self, array, out, *, dtype=None, stream=None):
        """`out`, `size` times as long, gets every PE's array, in the order of their ranks."""
        source, target, handle = self._borrow(array, out, dtype, stream, own_part=True)
        self._expect(target, source.count * self.team.size, "the arrays of all PEs")
        self._call("all_gather", (source, target), (source.count,), source.nbytes, handle)

    def reduce_scatter(self, array, out, *, dtype=None, stream=None):
        """`out`, a `size`-th as long, gets this rank's part of the sum of the PEs' arrays."""
        source, target, handle = self._borrow(array, out, dtype, stream, own_part=True)
        count = self._part(source)
        self._expect(target, count, "a part")
        self._call("reduce_scatter", (source, target), (count,), target.nbytes, handle)

    def all_to_all(self, array, out, *, dtype=None, stream=None):
        """Part p of `array` goes to rank p, whose `out` gets a part of every PE, in the order of their ranks."""
        source, target, handle = self._borrow(array, out, dtype, stream)
        count = self._part(source)
        self._expect(target, source.count, "a part from every PE")
        if source.address == target.address:
            raise InputError("all_to_all cannot write over its input")
        self._call("all_to_all", (source, target), (count,), count * ITEM_BYTES[source.kind], handle)

    def broadcast(self, array, root: int = 0, *, dtype=None, stream=None):
        """`array` of every PE becomes that of rank `root`."""
        if not 0 <= root < self.team.size:
            raise InputError(f"there is no rank {root} in {self.team}")
        source, target, handle = self._borrow(array, array, dtype, stream)
        self._call("broadcast", (source, target), (source.count, root), source.nbytes, handle)

    def all_reduce_norm(self, array, residual, weight, out=None, *, eps: float = 1e-5, dtype=None, stream=None):
        """`residual` += the sum of the PEs' arrays; `out` (None: `array`) = RMSNorm(residual) * weight.

        array, residual, out: [..., hidden]; weight: [hidden]; all of one floating dtype. residual is rounded to it
        before the norm. The same bits on each PE.
        """
        source, target, handle = self._borrow(array, array if out is None else out, dtype, stream)
        added = borrow(self._pe, residual, dtype, stream=handle, write=True)
        scale = borrow(self._pe, weight, dtype, stream=handle)
        hidden = scale.count
        if "int" in KINDS[source.kind] or len({source.kind, added.kind, scale.kind}) > 1:
            raise InputError("all_reduce_norm takes arrays of one floating dtype")
        if not hidden or source.shape[-1:] != (hidden,) or scale.nbytes > MOST_HIDDEN:
            raise InputError(
                f"weight has {hidden} elements (at most {MOST_HIDDEN} bytes), array is {list(source.shape)}"
            )
        self._expect(target, source.count, "the result")
        self._expect(added, source.count, "the residual")
        if any(_share_bytes(*pair) for pair in ((added, target), (scale, target), (scale, added))):
            raise InputError("residual, weight and out overlap: they must have no memory in common")
        if overlap(source, added):
            raise InputError("array and residual overlap")
        if scale.nbytes % PACKET or any(each.address % PACKET for each in (source, target, added, scale)):
            raise InputError(f"all_reduce_norm takes vectors of whole {PACKET} bytes, at multiples of {PACKET} bytes")
        rows = source.count // hidden
        arrays, nbytes = (source, target, added, scale), scale.nbytes if rows else 0
        shared = rows * CLUSTER <= self.lanes and nbytes >= CLUSTER * RUN * PACKET
        name = "all_reduce_norm_clusters" if shared else "all_reduce_norm_rows"
        self._call(name, arrays, (hidden, rows, float(eps)), nbytes, handle)

    def free(self):
        """Collective over all PEs. Gives the memory back; doing it twice does nothing."""
        if not self.freed:
            self._freed = True
            self._channel.free()
            self._calls.free()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is None:
            self.free()

    def _borrow(self, array, out, dtype, stream, own_part=False):
        """Source, target and the stream's handle. `own_part`: the smaller one may be this rank's part of the other."""
        handle = stream_handle(stream)
        target = borrow(self._pe, out, dtype, stream=handle, write=True)
        source = target if out is array else borrow(self._pe, array, dtype, stream=handle)
        if source.kind != target.kind:
            raise InputError(f"array is {KINDS[source.kind]} and out is {KINDS[target.kind]}: they must be the same")
        if overlap(source, target):
            small, large = sorted((source, target), key=lambda each: each.nbytes)
            if not own_part or small.address != large.address + self.team.rank * small.nbytes:
                raise InputError("array and out overlap: they must be the same memory, or have none in common")
        return source, target, handle

    def _expect(self, array: Borrowed, count: int, what: str):
        if array.count != count:
            raise InputError(f"{what} has {count} elements, and this array, {list(array.shape)}, has {array.count}")

    def _part(self, source: Borrowed) -> int:
        if source.count % self.team.size:
            raise InputError(f"{source.count} elements make no {self.team.size} equal parts")
        return source.count // self.team.size

    def _call(self, name, arrays, numbers, nbytes, handle):
        _ = self._channel.argument  # which is there until it is freed
        self.check()
        if max(array.count for array in arrays) > MOST_ELEMENTS:
            raise InputError(f"{numbers[0]} elements: a collective takes arrays of at most {MOST_ELEMENTS}")
        if nbytes:
            self._calls.call(name, arrays, numbers, nbytes, handle)


def _share_bytes(a: Borrowed, b: Borrowed) -> bool:
    return overlap(a, b) or (a.address == b.address and min(a.nbytes, b.nbytes) > 0)
