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

from shmemtp.device.backend.gpu.arguments import argument_type
from shmemtp.device.backend.gpu.arrays import DeviceArray
from shmemtp.device.backend.gpu.compile import Machine, compile_cubin
from shmemtp.device.backend.gpu.host import MAX_BLOCK
from shmemtp.llm import LLM
from shmemtp.topology import Topology

ROOT = Path(__file__).resolve().parent.parent
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

    def launch(self, compiled, grid, block, args, shared_bytes=0, warp=None):
        return SimpleNamespace(done=lambda: True, wait=lambda: None)


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
        backend="gpu",
        array=lambda shape, dtype: SimpleNamespace(argument=Unbacked(shape, dtype)),
        watch=lambda team: SimpleNamespace(argument=Unbacked(8, np.int64)),
    )


def decode(model, tp, algorithm="one-shot"):
    """(the cubin, threads of a block, bytes of shared memory) of the decode kernel."""
    pe = paper_pe(tp)
    llm = LLM(model, pe, load_format="dummy", algorithm=algorithm)
    return pe.device.cubins["decode"], llm.plan.block, llm.plan.shared["bytes"]


def fill_random():
    pe = paper_pe(1)
    from shmemtp.device.dummy import fill_random as kernel

    pe.device.compile(kernel, (Unbacked(8, np.uint32), 1, np.float32(1.0)))
    return pe.device.cubins["fill_random"], MAX_BLOCK, 0


def read_all():
    sys.path.insert(0, str(ROOT / "scripts"))
    from read_kernel import read_all as kernel

    device = PaperDevice()
    device.compile(kernel, (Unbacked(8, np.uint32), Unbacked(1, np.uint32), 1))
    return device.cubins["read_all"], MAX_BLOCK, 0


CASES = {
    **{f"decode llama-3.1-8b TP {tp}": partial(decode, "llama-3.1-8b", tp) for tp in (1, 2, 4, 8)},
    "decode llama-3.1-70b TP 8": partial(decode, "llama-3.1-70b", 8),
    "decode tiny TP 2, put": partial(decode, "tiny", 2, "one-shot-put"),
    "fill_random": fill_random,
    "read_all": read_all,
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
