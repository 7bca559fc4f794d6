"""Sliced reads of safetensors: every format and file layout gives the same bits, broken files say what is broken."""

import json
import re

import numpy as np
import pytest
from checkpoints import make, random_weights, save

from shmemtp.config import load_config
from shmemtp.errors import CheckpointError
from shmemtp.weights import Checkpoint, from_bfloat16, to_bfloat16

UP = "model.layers.1.mlp.up_proj.weight"  # [136, 96]


def test_round_to_nearest_even():
    torch = pytest.importorskip("torch")
    bits = np.random.default_rng(0).integers(0, 1 << 32, 200_000, dtype=np.uint32)
    edges = [0, 0x80000000, 0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 1]
    values = np.concatenate([bits, np.array(edges, np.uint32)]).view(np.float32)
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()
    nan = np.isnan(values)
    np.testing.assert_array_equal(to_bfloat16(values)[~nan], expected[~nan])
    assert np.isnan(from_bfloat16(to_bfloat16(values))[nan]).all()


def test_bf16_goes_both_ways():
    bits = np.arange(1 << 16).astype(np.uint16)
    finite = np.isfinite(from_bfloat16(bits))
    np.testing.assert_array_equal(to_bfloat16(from_bfloat16(bits))[finite], bits[finite])


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_every_format_holds_the_same_numbers(tmp_path, dtype, shards):
    folder = make(tmp_path, "qwen2", dtype=dtype, shards=shards)
    checkpoint = Checkpoint(folder)
    weights = random_weights(load_config(folder), seed=0)
    assert sorted(checkpoint.names) == sorted(weights)
    for name, values in weights.items():
        assert checkpoint.shape(name) == values.shape
        bits = checkpoint.read(name)
        assert bits.dtype == np.uint16
        np.testing.assert_array_equal(from_bfloat16(bits), values)
        exact = checkpoint.read_float(name)
        assert exact.dtype == np.float32
        np.testing.assert_array_equal(exact, values)


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_slices(tmp_path, dtype):
    checkpoint = Checkpoint(make(tmp_path, dtype=dtype))
    whole = checkpoint.read(UP)
    np.testing.assert_array_equal(checkpoint.read(UP, slice(3, 9)), whole[3:9])
    np.testing.assert_array_equal(checkpoint.read(UP, columns=slice(8, 40)), whole[:, 8:40])
    np.testing.assert_array_equal(checkpoint.read(UP, slice(1, 2), slice(0, 5)), whole[1:2, :5])
    np.testing.assert_array_equal(checkpoint.read(UP, slice(130, 200)), whole[130:])
    assert checkpoint.read(UP, slice(136, 200)).shape == (0, 96)
    np.testing.assert_array_equal(checkpoint.read_float(UP, slice(3, 9)), from_bfloat16(whole[3:9]))
    norm = checkpoint.read_float("model.norm.weight")
    np.testing.assert_array_equal(checkpoint.read_float("model.norm.weight", slice(2, 4)), norm[2:4])


def test_a_large_conversion_is_done_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("shmemtp.weights._CHUNK", 1000)
    values = np.random.default_rng(0).standard_normal((101, 96)).astype(np.float32)
    save(tmp_path / "model.safetensors", {"a": values}, "fp32")
    np.testing.assert_array_equal(Checkpoint(tmp_path).read("a"), to_bfloat16(values))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_reads_what_safetensors_writes(tmp_path, dtype):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    tensors = {name: torch.randn(5, 7).to(getattr(torch, dtype)) for name in "abc"}
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = Checkpoint(tmp_path)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(checkpoint.read_float(name, slice(1, 4)), tensor.float()[1:4].numpy())
        rounded = tensor.to(torch.bfloat16).view(torch.uint16).numpy()
        np.testing.assert_array_equal(checkpoint.read(name), rounded)


def test_a_header_of_odd_length(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    header += b" " * (1 - len(header) % 2)  # the numbers begin on an odd byte
    data = np.array([1.5, -2.0], np.float32).tobytes()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    np.testing.assert_array_equal(Checkpoint(tmp_path).read_float("a"), [1.5, -2.0])


def test_wrong_shape(tmp_path):
    checkpoint = Checkpoint(make(tmp_path))
    checkpoint.check(UP, (136, 96))
    with pytest.raises(CheckpointError) as caught:
        checkpoint.check(UP, (140, 96))
    file = tmp_path / "model.safetensors"
    assert str(caught.value) == f"{file}: tensor {UP} has shape [136, 96], but config.json makes it [140, 96]"


def test_missing_tensor(tmp_path):
    checkpoint = Checkpoint(make(tmp_path / "one"))
    with pytest.raises(CheckpointError, match=r"one/model.safetensors holds no tensor nose, .* makes \[4, 2\]"):
        checkpoint.check("nose", (4, 2))
    with pytest.raises(CheckpointError, match="one/model.safetensors holds no tensor nose"):
        checkpoint.read("nose")
    checkpoint = Checkpoint(make(tmp_path / "two", shards=2))
    with pytest.raises(CheckpointError, match="two/model.safetensors.index.json holds no tensor nose"):
        checkpoint.read("nose")


def test_shard_without_the_tensor_that_the_index_puts_there(tmp_path):
    index = make(tmp_path, shards=2) / "model.safetensors.index.json"
    placed = json.loads(index.read_text())
    placed["weight_map"]["nose"] = "model-00002-of-00002.safetensors"
    index.write_text(json.dumps(placed))
    with pytest.raises(CheckpointError, match="model-00002-of-00002.safetensors holds no tensor nose"):
        Checkpoint(tmp_path).read("nose")


def test_truncated_tensor(tmp_path):
    file = make(tmp_path) / "model.safetensors"
    size = file.stat().st_size
    with file.open("r+b") as f:
        f.truncate(size - 100)
    checkpoint = Checkpoint(tmp_path)
    checkpoint.check(UP, (136, 96))  # lies before the cut
    message = rf"model.safetensors is truncated: tensor lm_head.weight \[101, 96\] .* {size} of a file of {size - 100}"
    with pytest.raises(CheckpointError, match=message):
        checkpoint.check("lm_head.weight", (101, 96))
    with pytest.raises(CheckpointError, match=message):
        checkpoint.read("lm_head.weight", slice(0, 1))


@pytest.mark.parametrize("size", [0, 5, 100])
def test_truncated_header(tmp_path, size):
    file = make(tmp_path) / "model.safetensors"
    with file.open("r+b") as f:
        f.truncate(size)
    with pytest.raises(CheckpointError, match="model.safetensors is truncated"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{", "is broken"),
        (b"[]", "is broken: no JSON object"),
        (b'{"a": {"dtype": "F32"}}', "misdescribes tensor a"),
        (b'{"a": 3}', "misdescribes tensor a"),
        (b'{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}', "a has 8 bytes, not those of F32 [3]"),
        (b'{"a": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}', "tensor a is I64; only BF16, F16 and F32"),
    ],
)
def test_broken_header(tmp_path, header, message):
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        Checkpoint(tmp_path).read("a")
    assert "model.safetensors" in str(caught.value) and "\n" not in str(caught.value)


def test_no_weights(tmp_path):
    with pytest.raises(CheckpointError, match="holds neither model.safetensors nor model.safetensors.index.json"):
        Checkpoint(tmp_path)


def test_missing_shard(tmp_path):
    file = make(tmp_path, shards=3) / "model-00002-of-00003.safetensors"
    file.unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00003.safetensors, which .*index.json names, is missing"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["{", "{}", '{"weight_map": {}}'])
def test_broken_index(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match="model.safetensors.index.json"):
        Checkpoint(tmp_path)
