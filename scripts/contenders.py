"""The collectives of others, on the same GPUs, at the same sizes, in graphs too: NCCL and torch's symmetric memory.

Both come with torch. NVLink multicast stays off for them, as it is in shmemtp, unless the environment asks for it.
"""

import importlib.util
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

DTYPES = {"float": "float32", "bfloat16": "bfloat16", "half": "float16", "int32": "int32"}


def why_not(pe):
    """Why there are no contenders here, for people; None if there are some."""
    if pe.backend != "gpu":
        return "needs GPUs"
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    import torch
    import torch.distributed as dist

    if not torch.cuda.is_available():
        return "torch sees no GPU"
    return None if dist.is_available() and dist.is_nccl_available() else "torch has no NCCL"


@dataclass(frozen=True)
class Peer:
    """Somebody else's collective with its tensors: of one operation, type and size.

    `call` starts it on torch's current stream. write(elements, ...) sets this PE's inputs and read() gives its result,
    both as elements are stored (inputs.py). once: a second call on the same inputs gives another result. note: why it
    cannot run; then it has nothing but its name.
    """

    name: str
    call: Callable[[], object] | None = None
    write: Callable[..., None] | None = None
    read: Callable[[], np.ndarray] | None = None
    once: bool = False
    note: str = ""


class Replay:
    """Calls as one CUDA graph of torch's, timed as those of `device.replay` are."""

    def __init__(self, torch, stream, call, times):
        self._torch, self._stream = torch, stream
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            for _ in range(times):
                call()
        self._began, self._ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def run(self):
        """Runs it once and waits."""
        with self._torch.cuda.stream(self._stream):
            self._graph.replay()
        self._stream.synchronize()

    def seconds(self):
        """Runs it twice and waits; how long the second run took."""
        with self._torch.cuda.stream(self._stream):
            self._graph.replay()
            self._began.record()
            self._graph.replay()
            self._ended.record()
        self._ended.synchronize()
        return self._began.elapsed_time(self._ended) / 1e3


class Contenders:
    """torch.distributed over the PEs of this job; only where `why_not` has no objection. Collective, all of it."""

    def __init__(self, pe):
        os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
        os.environ.setdefault("TORCH_SYMM_MEM_DISABLE_MULTICAST", "1")
        import torch
        import torch.distributed as dist
        import torch.distributed._symmetric_memory as symmetric_memory

        self._torch, self._dist, self._symmetric_memory, self._pe = torch, dist, symmetric_memory, pe
        self._device = torch.device("cuda", pe.device.ordinal)
        torch.cuda.set_device(self._device)
        self._stream = torch.cuda.ExternalStream(pe.device.stream, device=self._device)
        host, port, store = "127.0.0.1" if pe.topology.nodes == 1 else socket.gethostname(), None, None
        if pe.rank == 0:
            store = dist.TCPStore(host, 0, pe.size, is_master=True, wait_for_workers=False)
            port = store.port
        host, port = pe.comm.bcast((host, port))
        store = store or dist.TCPStore(host, port, pe.size, is_master=False, wait_for_workers=False)
        dist.init_process_group("nccl", store=store, rank=pe.rank, world_size=pe.size, device_id=self._device)
        self._group = dist.group.WORLD.group_name

    def close(self):
        self._torch.cuda.synchronize()
        self._dist.destroy_process_group()

    def replay(self, peer, times):
        return Replay(self._torch, self._stream, peer.call, times)

    def of(self, operation, type, count):
        """The peers of a collective; count as nccl-tests has it: what a PE gives an all-gather, gets of a scatter."""
        names = [f"_nccl_{operation}"] + (["_one_shot", "_two_shot"] if operation == "all_reduce" else [])
        return [self._tried(getattr(self, name)(type, count)) for name in names if hasattr(self, name)]

    def of_norm(self, type, hidden, eps):
        """All-reduce, residual add and RMSNorm: write(x, residual, weight), and read() gives the normalised vector."""
        made = self._nccl_all_reduce(type, hidden), self._one_shot(type, hidden)
        return [self._tried(self._with_norm(each, type, hidden, eps)) for each in made]

    def _tried(self, made):
        """The peer, once it has run; what it refuses becomes its note."""
        name, call, given, taken, once = made
        try:
            with self._torch.cuda.stream(self._stream):
                call()
            self._stream.synchronize()
        except RuntimeError as error:
            return Peer(name, note=str(error).partition("\n")[0])
        given = given if isinstance(given, list) else [given]
        return Peer(name, call, lambda *each: self._write(given, each), lambda: self._read(taken), once)

    def _tensor(self, count, type, symmetric=False):
        empty = self._symmetric_memory.empty if symmetric else self._torch.empty
        tensor = empty(count, dtype=getattr(self._torch, DTYPES[type]), device=self._device)
        if symmetric:
            self._symmetric_memory.rendezvous(tensor, self._group)
        return tensor.zero_()

    def _bits(self, tensor):
        return tensor.view(self._torch.int16 if tensor.element_size() == 2 else self._torch.int32)

    def _write(self, tensors, arrays):
        for tensor, elements in zip(tensors, arrays, strict=True):
            bits = elements.view(np.int16 if elements.itemsize == 2 else np.int32)
            self._bits(tensor).copy_(self._torch.from_numpy(bits))
        self._torch.cuda.synchronize()

    def _read(self, taken):
        return self._bits(taken() if callable(taken) else taken).cpu().numpy()

    # Each makes (name, what starts it, the tensor that is given, the one that has the result, whether only once).

    def _nccl_all_reduce(self, type, count):
        x = self._tensor(count, type)
        return "NCCL", lambda: self._dist.all_reduce(x), x, x, True

    def _nccl_all_gather(self, type, count):
        x, out = self._tensor(count, type), self._tensor(count * self._pe.size, type)
        return "NCCL", lambda: self._dist.all_gather_into_tensor(out, x), x, out, False

    def _nccl_reduce_scatter(self, type, count):
        x, out = self._tensor(count * self._pe.size, type), self._tensor(count, type)
        return "NCCL", lambda: self._dist.reduce_scatter_tensor(out, x), x, out, False

    def _nccl_broadcast(self, type, count):
        x = self._tensor(count, type)
        return "NCCL", lambda: self._dist.broadcast(x, 0), x, x, False

    def _nccl_all_to_all(self, type, count):
        x, out = self._tensor(count * self._pe.size, type), self._tensor(count * self._pe.size, type)
        return "NCCL", lambda: self._dist.all_to_all_single(out, x), x, out, False

    def _one_shot(self, type, count):
        x, out = self._tensor(count, type, symmetric=True), self._tensor(count, type)
        one_shot = self._torch.ops.symm_mem.one_shot_all_reduce_out
        return "symm_mem one-shot", lambda: one_shot(x, "sum", self._group, out), x, out, False

    def _two_shot(self, type, count):
        x = self._tensor(count, type, symmetric=True)
        two_shot = self._torch.ops.symm_mem.two_shot_all_reduce_
        return "symm_mem two-shot", lambda: two_shot(x, "sum", self._group), x, x, True

    def _with_norm(self, made, type, hidden, eps):
        name, all_reduce, x, summed, _ = made
        residual, weight, normed = self._tensor(hidden, type), self._tensor(hidden, type), []
        rms_norm = self._torch.nn.functional.rms_norm

        def call():
            all_reduce()
            residual.add_(summed)
            normed[:] = [rms_norm(residual, (hidden,), weight, eps)]

        return f"{name}, add_, rms_norm", call, [x, residual, weight], lambda: normed[0], True
