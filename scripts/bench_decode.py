"""Milliseconds per token of the decode loop, beside the floor that the memory sets.

    mpirun -n 8 python scripts/bench_decode.py --model llama-3.1-8b --load-format dummy --context 512 --json FILE

A token must read every weight of its PE once, and the keys and values of its context. The floor is those bytes (less
what only pads the layout) over the read bandwidth that a plain kernel reaches in the same run. Times are the device
clock's, from one token's choice to the next, of every PE; the PE with the largest median is reported.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from torch_decode import measure_torch

import shmemtp
from shmemtp.log import configure

GIB = 1 << 30
PLAN_OPTIONS = ("block", "max_tile_columns", "prefill_tokens", "trace")


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llama-3.1-8b", help="a checkpoint folder or a built-in shape")
    parser.add_argument("--load-format", choices=("auto", "dummy"), default="dummy")
    parser.add_argument("--context", type=int, default=512, help="tokens in the cache before the first one timed")
    parser.add_argument("--tokens", type=int, default=200, help="tokens timed")
    parser.add_argument("--algorithm", choices=("auto", "one-shot", "one-shot-put"), default="auto")
    parser.add_argument("--backend", choices=("auto", "gpu", "emulator"), default="auto")
    parser.add_argument("--block", type=int, help="threads of a block")
    parser.add_argument("--max-tile-columns", type=int, help="columns of a weight tile at most, a multiple of 64")
    parser.add_argument("--prefill-tokens", type=int, help="tokens of the prompt that are fed together, at most")
    parser.add_argument("--trace", action="store_true", help="print where a layer's time goes (a little slower)")
    parser.add_argument("--torch", action="store_true", help="time torch's decode of these shapes on the same GPUs too")
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args(argv)


def read_bandwidth(device, nbytes, passes=4):
    """Bytes per second that a plain kernel reads from device memory (its own array of `nbytes`)."""
    from read_kernel import read_all

    array, sink = device.array(nbytes // 4, np.uint32), device.array(1, np.uint32)
    args = (array, sink, passes)
    grid, block = (device.multiprocessors, 1024) if device.warp_size == 32 else (1, 1)
    compiled = device.compile(read_all, args, block=block)
    best = None
    for _ in range(4):
        began = time.perf_counter()
        device.launch(compiled, grid, block, args).wait()
        seconds = time.perf_counter() - began
        best = seconds if best is None else min(best, seconds)
    array.free()
    return array.nbytes * passes / best


def bytes_per_token(llm, context):
    """(necessary, streamed) bytes of one token on one PE."""
    layout, shape = llm.plan.layout, llm.plan.shape
    columns = (shape.hidden, shape.attention_columns, shape.hidden, shape.intermediate, shape.hidden)
    sizes = [2 * product.pairs * k * 2 for product, k in zip(layout.products, columns, strict=True)]
    cache = 4 * shape.layers * shape.kv_heads * shape.head_dim * context
    return shape.layers * sum(sizes[:4]) + sizes[4] + cache, layout.streamed_bytes + cache


def spans_of(trace):
    """Phase -> cycles, int64 [layers, blocks]."""
    from shmemtp.device.trace import ATTENDED, PHASES

    spans = {}
    for half, name in enumerate(("attention", "MLP")):
        marks = trace[:, half * len(PHASES) : (half + 1) * len(PHASES)]
        phases = [p for p in range(len(PHASES)) if half == 0 or p != ATTENDED]
        for before, phase in zip(phases, phases[1:], strict=False):
            spans[f"{name} {PHASES[phase]}"] = marks[:, phase] - marks[:, before]
    spans["layer"] = np.diff(trace[:, 0], axis=0)
    return spans


def print_trace(spans):
    """Mean over layers and blocks, and mean over layers of the slowest block, of each phase's cycles."""
    for name, span in spans.items():
        print(f"{name:>34} {span.mean():8.0f} cycles, slowest block {span.max(1).mean():8.0f}", flush=True)


def measure(options, pe):
    bandwidth = read_bandwidth(pe.device, 4 * GIB if pe.backend == "gpu" else 1 << 24)
    plan = {k: v for k, v in vars(options).items() if k in PLAN_OPTIONS and v}
    llm = shmemtp.LLM(
        options.model,
        pe,
        load_format=options.load_format,
        max_context=options.context + options.tokens + 2,
        algorithm=options.algorithm,
        **plan,
    )
    prompt = np.random.default_rng(0).integers(0, llm.config.vocab, options.context).tolist()
    llm.generate(prompt[:8], max_new_tokens=8, stop_tokens=())
    generation = llm.generate(prompt, max_new_tokens=options.tokens + 1, stop_tokens=())
    spans = spans_of(llm.loop.trace()) if options.trace else {}
    if pe.rank == 0:
        print_trace(spans)
    milliseconds = np.diff(llm.loop.token_times) / 1e6
    necessary, streamed = bytes_per_token(llm, options.context + options.tokens // 2)
    p1, median, p99 = (float(np.percentile(milliseconds, q)) for q in (1, 50, 99))
    floor = necessary / bandwidth * 1e3
    row = {
        "model": options.model,
        "tp_size": pe.size,
        "device": pe.device.name,
        "algorithm": llm.algorithm,
        "context": options.context,
        "tokens": len(milliseconds),
        "ms_per_token": median,
        "p1": p1,
        "p99": p99,
        "floor_ms": floor,
        "ratio": median / floor,
        "read_tb_s": bandwidth / 1e12,
        "gb_per_token": necessary / 1e9,
        "padding": streamed / necessary - 1,
        "prefill_ms_per_token": generation.prefill_s / options.context * 1e3,
        "load_s": llm.load_s,
        "compile_s": llm.compile_s,
        "grid": llm.plan.grid,
        "block": llm.plan.block,
        "stages": llm.plan.memory.stages,
        "in_flight": llm.plan.memory.in_flight,
        "max_tile_columns": llm.plan.max_tile_columns,
        "prefill_tokens": llm.plan.prompt.tokens,
        "cycles_by_block": {name: span.mean(0).round().tolist() for name, span in spans.items()},
    }
    return row, llm.plan.shape


def main(argv=None):
    options = parse(argv)
    with shmemtp.init(options.backend) as pe:
        configure(pe.rank)
        row, shape = measure(options, pe)
        rows = pe.comm.gather(row)
        if pe.rank == 0:
            row = max(rows, key=lambda r: r["ms_per_token"])
            print(
                f"{row['model']} TP {row['tp_size']} ({row['algorithm']}): {row['ms_per_token']:.3f} ms per token "
                f"(p1 {row['p1']:.3f}, p99 {row['p99']:.3f}), floor {row['floor_ms']:.3f} ms "
                f"({row['gb_per_token']:.2f} GB at {row['read_tb_s']:.2f} TB/s), ratio {row['ratio']:.2f}, "
                f"prefill {row['prefill_ms_per_token']:.3f} ms per token",
                flush=True,
            )
        others = measure_torch(pe, shape, options.context, options.tokens) if options.torch else []
        if pe.rank == 0:
            for name, median, reason in others:
                ratio = f"{median:.3f} ms per token, ratio {median / row['ms_per_token']:.2f}" if median else reason
                print(f"{name}: {ratio}", flush=True)
            row["torch_ms_per_token"] = {name: median for name, median, _ in others}
            if options.json:
                options.json.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
