"""Compiles the project's kernels for an H200, with or without one, and prints as JSON what the assembler says of each.

    SHMEMTP_BACKEND=gpu python tests/compile_kernels.py "decode llama-3.1-8b TP 8" read_all

The decode kernel is compiled by a whole `LLM` on a device that is not there, so its arguments are those that a real one
gets. A process of its own, because a backend is chosen once a process.
"""

import contextlib
import json
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from shmemtp.algorithm import NEVER
from shmemtp.channel import Channel, Extent
from shmemtp.communicator import LINE_BYTES
from shmemtp.device import Constants
from shmemtp.device.backend.gpu.arguments import argument_type
from shmemtp.device.backend.gpu.arrays import DeviceArray
from shmemtp.device.backend.gpu.compile import Machine, compile_cubin
from shmemtp.device.backend.gpu.host import MAX_BLOCK
from shmemtp.device.watch import REPORT_WORDS, STATE_WORDS, Watch
from shmemtp.llm import LLM
from shmemtp.topology import Topology

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
MOST_THREADS = 512  # scripts/options.py: of a benchmark's block
SHARED_BYTES = 227 * 1024  # a block's most, on Hopper


class Unbacked(DeviceArray):
    """Device memory with an address and no bytes."""

    def __init__(self, shape, dtype):
        super().__init__(0, shape, dtype)

    def fill(self, values, start=0):
        pass


class PaperDevice:
    """An H200 that is not there: kernels compile for it and do not run."""

    name, multiprocessors, warp_size, shared_bytes = "an H200 on paper", 132, 32, SHARED_BYTES
    array = mapped = staticmethod(Unbacked)

    def __init__(self):
        self.cubins = {}

    def memory(self):
        return 1 << 60, 1 << 60

    def compile(self, kernel, args, block=MAX_BLOCK):
        began = time.perf_counter()
        signature = tuple(argument_type(value) for value in args)
        cubin = self.cubins[kernel.__name__] = compile_cubin(kernel, signature, block, Machine((9, 0)))
        return SimpleNamespace(seconds=time.perf_counter() - began, cached=cubin.cached)

    def table(self, values):
        return tuple(map(int, values))

    def launch(self, compiled, grid, block, args, shared_bytes=0, warp=None):
        return SimpleNamespace(done=lambda: True, wait=lambda: None)


def paper_watch():
    return Watch(Unbacked(STATE_WORDS, np.int64), Unbacked(REPORT_WORDS, np.int64))


def paper_pe(tp):
    """PE 0 of `tp`, on paper."""
    comm = SimpleNamespace(allgather=lambda value: [value], bcast=lambda value: value)
    everywhere = ((True,) * tp,) * tp
    return SimpleNamespace(
        device=PaperDevice(),
        team=SimpleNamespace(rank=0, size=tp, pes=list(range(tp)), distances=np.zeros(tp, np.int64), comm=comm),
        topology=Topology((0,) * tp, (("NVLink",) * tp,) * tp, everywhere, "an H200 on paper"),
        comm=comm,
        together=contextlib.nullcontext(),
        timeout_s=10.0,
        closed=False,
        backend="gpu",
        array=lambda shape, dtype: SimpleNamespace(argument=Unbacked(shape, dtype)),
        watch=lambda team: SimpleNamespace(argument=paper_watch()),
    )


def decode(model, tp, algorithm="one-shot"):
    """(the cubin, threads of a block, bytes of shared memory) of the decode kernel."""
    pe = paper_pe(tp)
    llm = LLM(model, pe, load_format="dummy", algorithm=algorithm)
    return pe.device.cubins["decode"], llm.plan.threads, llm.plan.shared_bytes


def fill_random():
    pe = paper_pe(1)
    from shmemtp.device.dummy import fill_random as kernel

    pe.device.compile(kernel, (Unbacked(8, np.uint32), 1, np.float32(1.0)))
    return pe.device.cubins["fill_random"], MAX_BLOCK, 0


def read_all():
    from read_kernel import read_all as kernel

    device = PaperDevice()
    device.compile(kernel, (Unbacked(8, np.uint32), Unbacked(1, np.uint32), 1))
    return device.cubins["read_all"], MAX_BLOCK, 0


def stream_and_ask():
    from stream_kernel import SHARED_BYTES as shared_bytes
    from stream_kernel import STREAMERS, Streaming
    from stream_kernel import stream_and_ask as kernel

    device, block = PaperDevice(), 32 * (STREAMERS + 1)
    arrays = map(paper_array, (np.uint16, np.uint32, np.int64, np.int64, np.int64, np.int64))
    device.compile(kernel, (Streaming(16, 3, 1, 1, 2), *arrays), block)
    return device.cubins["stream_and_ask"], block, shared_bytes


def paper_array(dtype):
    return Unbacked(8, dtype)


def paper_communicator(pe, put=False):
    return Channel(pe, pe.team, Extent(pe.device.multiprocessors, 512, put, 8192, LINE_BYTES), NEVER).argument


def put_rounds(name, operation, raw):
    """A kernel of bench_put."""
    import put_kernels as kernels
    from pace import Pace

    device, (words, numbers, signals) = PaperDevice(), map(paper_array, (np.uint32, np.int64, np.uint64))
    shape = Constants(operation=getattr(kernels, operation), raw=raw)
    args = (shape, 0, kernels.Wire(words, words, signals, words, 1, 0, 4, 32), 1, Pace(1, 1, numbers))
    args = (*args, paper_watch(), 0) if name == "ping_pong_rounds" else (*args, paper_communicator(paper_pe(2)))
    device.compile(getattr(kernels, name), args, MOST_THREADS)
    return device.cubins[name], MOST_THREADS, 0


def collective_rounds(name, shape, arguments, pes=8, put=False, shared_bytes=0):
    """A kernel of bench_collectives or bench_fused. arguments: dtypes of arrays, and numbers."""
    import collective_kernels as kernels
    from pace import Pace

    pe = paper_pe(pes)
    args = [paper_array(each) if isinstance(each, type) else each for each in arguments]
    comm, pace = paper_communicator(pe, put), Pace(1, 1, paper_array(np.int64))
    pe.device.compile(getattr(kernels, name), (Constants(**shape), comm, *args, pace), MOST_THREADS)
    return pe.device.cubins[name], MOST_THREADS, shared_bytes


def call(name, *arguments, pes=8, **fields):
    """A kernel of the host's calls, over `arguments` as `collective_rounds` has them; fields: of its Constants."""
    from shmemtp.device import calls

    pe = paper_pe(pes)
    args = [paper_array(each) if isinstance(each, type) else each for each in arguments]
    pe.device.compile(getattr(calls, name), (Constants(kind=1, **fields), paper_communicator(pe), *args), MOST_THREADS)
    return pe.device.cubins[name], MOST_THREADS, 0


BF16, NUMBERS = np.uint16, np.int64
SOURCE_AND_TARGET = (BF16, 0, BF16, 0)
NORMED = (*SOURCE_AND_TARGET, BF16, 0, BF16, 0, 4096)
CALLS = {
    **{name: partial(call, name, *SOURCE_AND_TARGET, 8) for name in ("all_reduce", "all_gather", "reduce_scatter")},
    "all_to_all": partial(call, "all_to_all", *SOURCE_AND_TARGET, 8),
    "broadcast": partial(call, "broadcast", *SOURCE_AND_TARGET, 8, 0),
    "all_reduce_norm_rows": partial(call, "all_reduce_norm_rows", *NORMED, 1, np.float32(1e-5)),
    "all_reduce_norm_clusters": partial(call, "all_reduce_norm_clusters", *NORMED, 1, np.float32(1e-5), blocks=8),
}
NORM = (BF16, 64, BF16, BF16, np.uint32, np.float32(1e-5))
COLLECTIVE = (BF16, 64, BF16, 64, 8)
UNEVEN = (BF16, NUMBERS, NUMBERS, BF16, NUMBERS, NUMBERS, 8)
BENCHMARKS = {
    "transfer_rounds put": partial(put_rounds, "transfer_rounds", "PUT", True),
    "transfer_rounds get, nvshmem": partial(put_rounds, "transfer_rounds", "GET", False),
    "ping_pong_rounds put_signal, nvshmem": partial(put_rounds, "ping_pong_rounds", "PUT_SIGNAL", False),
    "collective_rounds all_reduce, 8 PEs": partial(
        collective_rounds, "collective_rounds", {"operation": 0, "kind": 1}, COLLECTIVE
    ),
    "collective_rounds all_to_all, 8 PEs, put": partial(
        collective_rounds, "collective_rounds", {"operation": 4, "kind": 1}, COLLECTIVE, put=True
    ),
    "all_to_all_v_rounds 8 PEs": partial(collective_rounds, "all_to_all_v_rounds", {"kind": 1}, UNEVEN),
    "barrier_rounds 8 PEs": partial(collective_rounds, "barrier_rounds", {"block": False}, (np.uint64, NUMBERS)),
    "all_reduce_norm_rounds 8 PEs": partial(
        collective_rounds,
        "all_reduce_norm_rounds",
        {"kind": 1, "hidden": 8192, "words": 4096, "blocks": 8},
        NORM,
        shared_bytes=16 + 16 * 4096 + 4 * MOST_THREADS,
    ),
}
CASES = {
    **CALLS,
    **BENCHMARKS,
    **{f"decode llama-3.1-8b TP {tp}": partial(decode, "llama-3.1-8b", tp) for tp in (1, 2, 4, 8)},
    "decode llama-3.1-70b TP 8": partial(decode, "llama-3.1-70b", 8),
    "decode tiny TP 2, put": partial(decode, "tiny", 2, "one-shot-put"),
    "fill_random": fill_random,
    "read_all": read_all,
    "stream_and_ask": stream_and_ask,
}


def main(names):
    for name in names:
        began = time.perf_counter()
        cubin, block, shared_bytes = CASES[name]()
        assert cubin.code.startswith(b"\x7fELF"), f"{name} is no machine code"
        row = {
            "kernel": name,
            "block": block,
            "registers": cubin.registers,
            "shared_bytes": shared_bytes,
            "spill_bytes": cubin.spill_bytes,
            "stack_bytes": cubin.stack_bytes,
            "code_bytes": len(cubin.code),
            "seconds": round(time.perf_counter() - began, 1),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or CASES)
