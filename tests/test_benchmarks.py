"""The microbenchmarks in the emulator, at sizes and repetitions that are a matter of seconds: nothing is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 110
SHORT = ("-n", "2", "-w", "2", "--repeats", "2", "-G", "1")


def start(*arguments, pes=0):
    """`shmemtp bench ...`, under mpirun if `pes` says on how many."""
    command = [sys.executable, "-m", "shmemtp", "bench", *arguments]
    if pes:
        command = [sys.executable, "-m", "shmemtp.launch", "-n", str(pes), *command]
    env = os.environ | {"PYTHONPATH": str(ROOT), "SHMEMTP_BACKEND": "emulator"}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT_S, cwd=ROOT / "scripts")


def rows_of(tmp_path, name, *arguments, pes=2):
    """The rows that a benchmark found; what was measured is right, and stands in the table too."""
    file = tmp_path / "found.json"
    done = start(name, *arguments, *SHORT, "--json", str(file), pes=pes)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert (found["benchmark"], found["pes"], found["backend"]) == (name, pes, "emulator")
    measured = [row for row in found["rows"] if not row["note"]]
    assert {row["wrong"] for row in measured} == {0}
    assert all(0 < row["p1_us"] <= row["time_us"] <= row["p99_us"] for row in measured)
    lines = done.stdout.splitlines()
    for row in found["rows"]:
        assert any(
            row["contender"] in line and line.split()[:3] == [str(row["size"]), str(row["count"]), row["type"]]
            for line in lines
        )
    return found["rows"]


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


def test_put(tmp_path):
    """The third PE only looks on."""
    rows = rows_of(tmp_path, "put", "-b", "16", "-e", "64", "-f", "4", "--scope", "thread,block,grid", pes=3)
    assert {row["operation"] for row in rows} == {
        *(f"{operation} {what}" for operation in ("put", "get", "put_signal") for what in ("latency", "bandwidth")),
        "signal latency",
    }
    assert {(row["size"], row["count"]) for row in rows} == {(8, 2), (16, 4), (64, 16)}
    ours = {f"{transport}, {scope}" for transport in ("raw", "nvshmem") for scope in ("thread", "block", "grid")}
    assert {row["contender"] for row in rows} == {*ours, "memmove"}
    for row in rows:
        compared = row["operation"].endswith("bandwidth") and row["contender"] != "memmove"
        assert (row["ratio"] is not None) == compared


def test_collectives(tmp_path):
    rows = rows_of(tmp_path, "collectives", "-b", "100", "-e", "100", "-d", "half")
    assert {row["operation"]: (row["size"], row["count"], row["redop"]) for row in rows} == {
        "all_reduce": (100, 50, "sum"),
        "all_gather": (100, 25, "none"),
        "reduce_scatter": (100, 25, "sum"),
        "broadcast": (100, 50, "none"),
        "all_to_all": (100, 25, "none"),
        "all_to_all_v": (100, 25, "none"),
        "barrier": (0, 0, "none"),
    }
    names = ("one-shot", "two-shot", "one-shot-put", "two-shot-put")
    assert {row["contender"] for row in rows if row["operation"] == "all_reduce"} == {
        *(f"kernel, {name}, one block" for name in names),
        *(f"host, {name}" for name in (*names, "auto")),
        "NCCL, symm_mem",
    }
    assert {row["note"] for row in rows} == {"", "needs GPUs"}


def test_fused(tmp_path):
    rows = rows_of(tmp_path, "fused", "-b", "64", "-e", "128")
    assert [row["count"] for row in rows[:1] + rows[-1:]] == [32, 64]
    assert {row["contender"] for row in rows if not row["note"]} == {
        *(f"{way}, {name}" for way in ("kernel", "host") for name in ("one-shot", "one-shot-put")),
        "host, auto",
    }


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["put", "-b", "3x"], "'3x' is not a size such as 512, 8K or 1M"),
        (["put", "-b", "1M", "-e", "1K"], "-b 1048576 is larger than -e 1024"),
        (["put", "--launch", "8x0"], "'8x0' is no launch such as 8x128"),
        (["put"], "bench_put measures between two PEs"),
        (["put", "-n", "0"], "'0' is not a whole number from 1 up"),
        (["collectives", "--operation", "all_reduce,sum"], "there is no 'sum': choose from all_reduce, "),
        (["collectives", "--algorithm", "ring"], "there is no 'ring': choose from auto, one-shot, "),
        (["fused", "-d", "int32"], "'int32'"),
        (["fused", "--launch", "200x64"], "at most 128 blocks can share 8192 bytes"),
        (["fused", "-e", "1M"], "a hidden state has 8 to 16384 bytes, a multiple of 8"),
        (["fused", "--launch", "64x128"], "128 threads keep 4096 bytes of a vector"),
        (["fused", "--cluster", "16"], "a cluster has at most 8 blocks, not 16"),
    ],
)
def test_bad_flags_are_one_line(arguments, told):
    done = start(*arguments)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("shmemtp: error: ")]
    assert told in line
    assert "Traceback" not in done.stderr


def test_sizes(scripts):
    import options

    sizes = [options.size(text) for text in ("512", "8K", "1m", "2G")]
    assert sizes == [512, 8192, 1 << 20, 2 << 30]
    asked = SimpleNamespace(minbytes=1000, maxbytes=9000, stepfactor=3)
    assert options.sizes(asked) == [1000, 3000, 9000]


def test_a_wrong_bit_counts(scripts):
    import inputs

    for type in inputs.STORED:
        right = inputs.summed(type, [inputs.random(type, 9, [p]) for p in range(3)])
        found = right.copy()
        found.view(np.uint8)[-found.itemsize] ^= 1
        assert (inputs.wrong(right, right), inputs.wrong(found, right)) == (0, 1)
        assert inputs.wrong(inputs.poison(type, 9), right) == 9


def test_whole_inputs_have_one_sum_in_any_order(scripts):
    import inputs

    for type in inputs.STORED:
        parts = [inputs.random(type, 500, [p], whole=True) for p in range(8)]
        assert inputs.wrong(inputs.summed(type, parts[::-1]), inputs.summed(type, parts)) == 0


def test_the_ratio_is_the_best_peers_time_over_ours(scripts):
    from report import Row, set_ratios

    def row(name, microseconds, **fields):
        times = None if microseconds is None else np.array([microseconds])
        return Row("all_reduce", 8, 4, "half", "sum", 1.0, name, times=times, **fields)

    ours, kernel = row("ours", 2.0, against="graph"), row("kernel", 1.0)
    peers = [row(f"peer {n}", time, against="graph", peer=True) for n, time in enumerate((8.0, 6.0, None))]
    set_ratios([ours, kernel, *peers])
    assert [each.ratio for each in (ours, kernel, *peers)] == [3.0, None, None, None, None]


def test_without_torch_the_rows_say_so(scripts, monkeypatch):
    import contenders

    monkeypatch.setattr(contenders.importlib.util, "find_spec", lambda name: None)
    assert contenders.why_not(SimpleNamespace(backend="gpu")) == "torch is not installed"


def test_a_picture_of_what_was_found(tmp_path, scripts):
    from report import Row

    from shmemtp.errors import InputError

    rows = [Row("put", size, size, "float", "none", 1.0, "raw", times=np.array([1.0])) for size in (8, 1024)]
    from picture import draw

    try:
        import matplotlib  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match="--plot needs matplotlib"):
            draw(rows, tmp_path / "found.png", "2 PEs")
    else:
        draw(rows, tmp_path / "found.png", "2 PEs")
        assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")


def test_stream(tmp_path):
    """PE 1 only looks on; with nothing under way nothing streams, and else it does."""
    file = tmp_path / "found.json"
    done = start("stream", "--microseconds", "2000", "--json", str(file), pes=2)
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())["rows"]
    assert [row["kib_under_way"] for row in rows] == [0, 16, 24, 32, 40, 48, 64, 128, 192, 192]
    assert [row["tb_s"] > 0 for row in rows] == [row["kib_under_way"] > 0 for row in rows]
    assert all(0 < median <= most for median, most in (row["load"] for row in rows))
    assert done.stdout.count("TB/s") == len(rows)


def test_decode(tmp_path):
    """Its floor is what the same run can read; torch, which has no GPU here, says so."""
    file = tmp_path / "found.json"
    short = ("--load-format", "auto", "--context", "20", "--tokens", "8", "--torch", "--trace", "--json", str(file))
    done = start("decode", "--model", "tiny", *short, pes=2)
    assert done.returncode == 0, done.stderr
    row = json.loads(file.read_text())
    assert (row["tp_size"], row["tokens"], row["prefill_tokens"]) == (2, 8, 32)
    assert 0 < row["p1"] <= row["ms_per_token"] <= row["p99"]
    assert row["ratio"] == pytest.approx(row["ms_per_token"] / row["floor_ms"])
    *trace, told, first, second = done.stdout.splitlines()
    assert [line.split()[0] for line in trace] == [*["attention"] * 7, *["MLP"] * 6, "layer"]
    assert {len(cycles) for cycles in row["cycles_by_block"].values()} == {row["grid"]}
    assert told.startswith(f"tiny TP 2 (one-shot): {row['ms_per_token']:.3f} ms per token")
    assert all("torch" in line and line.endswith("needs GPUs") for line in (first, second))


def test_torch_decodes_the_same_shapes(scripts):
    """The contender of bench_decode, on a CPU: each step chooses a token and takes the next position."""
    torch = pytest.importorskip("torch", reason="the contender is torch's")
    import torch.distributed as dist
    from torch_decode import TorchDecode

    shape = SimpleNamespace(
        **dict(layers=2, hidden=64, heads=4, kv_heads=2, head_dim=16, intermediate=96, vocab=100, total_vocab=100, tp=1)
    )
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        decode = TorchDecode(torch, dist, torch.device("cpu"), shape, 32, compiled=False)
        with torch.no_grad():
            for _ in range(3):
                decode.step()
    finally:
        dist.destroy_process_group()
    assert decode.position.tolist() == [3]
    assert 0 <= decode.token.item() < shape.vocab


def test_torch_that_cannot(scripts, monkeypatch):
    """What torch refuses on any PE is told of all, which go on together."""
    torch = pytest.importorskip("torch", reason="the contender is torch's")
    import torch_decode

    def refuse(*args):
        raise RuntimeError("no compiler\nand much more")

    comm = SimpleNamespace(allgather=lambda value: [value, ""])
    pe = SimpleNamespace(comm=comm, device=SimpleNamespace(ordinal=0))
    monkeypatch.setattr(torch_decode, "why_not", lambda pe: None)
    monkeypatch.setattr(torch_decode, "Contenders", lambda pe: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(torch_decode, "TorchDecode", refuse)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    found = torch_decode.measure_torch(pe, None, 20, 8)
    assert found == [(name, None, "no compiler") for name in torch_decode.NAMES.values()]
