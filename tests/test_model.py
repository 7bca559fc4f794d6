"""A PE's packed share: all PEs' shares are the model, whatever the architecture, the ratios and the PE count."""

import numpy as np
import pytest
from checkpoints import make
from reference import Reference, rotate

from shmemtp.config import load_config, rope_table
from shmemtp.errors import CheckpointError, InputError
from shmemtp.model import Layout, load, model_shape, unpack
from shmemtp.weights import Checkpoint, from_bfloat16

IDS = np.random.default_rng(7).integers(0, 97, 40).tolist()
MODELS = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True, "hidden_size": 72, "num_key_value_heads": 12, "head_dim": 8}),
    "llama-odd": ("llama", {"hidden_size": 84, "intermediate_size": 101, "num_key_value_heads": 6, "vocab_size": 103}),
    "mistral": ("mistral", {"num_key_value_heads": 1}),
    "qwen2": ("qwen2", {"hidden_size": 72, "vocab_size": 97}),
    "qwen3": ("qwen3", {"num_key_value_heads": 6, "head_dim": 24}),
}


@pytest.fixture(scope="module", params=MODELS)
def folder(request, tmp_path_factory):
    architecture, overrides = MODELS[request.param]
    return make(tmp_path_factory.mktemp(request.param), architecture, **overrides)


class LoadedPE:
    """One PE's memory, filled by `load` and read back through `unpack` alone."""

    def __init__(self, folder, tp, rank, grid=3, max_tile_columns=64):
        config = load_config(folder)
        self.shape = model_shape(config, tp)
        self.layout = Layout(self.shape, grid, max_tile_columns)
        self.memory = np.full(self.layout.elements, 0x7FC0, np.uint16)  # NaN wherever nothing is written
        self.table = np.full(self.shape.total_vocab * self.shape.hidden, 0x7FC0, np.uint16)
        self.starts = []
        sinks = self.sink(self.memory), self.sink(self.table)
        self.small = load(config, Checkpoint(folder), self.shape, self.layout, rank, *sinks, progress=False)
        self.embedding = from_bfloat16(self.table).reshape(-1, self.shape.hidden)

    def sink(self, target):
        def write(start, flat):
            assert flat.dtype == np.uint16 and flat.ndim == 1
            self.starts.append(start)
            target[start : start + len(flat)] = flat

        return write

    def matrix(self, name, layer=0):
        """float32 [pairs, 2, columns]."""
        part, names = getattr(self.layout, name), ("qkv", "o", "gate_up", "down")
        start = self.layout.lm_head_offset
        if name in names:
            start = layer * self.layout.layer_elements + self.layout.offsets[names.index(name)]
        return from_bfloat16(unpack(self.memory[start : start + part.elements], part))

    def multiply(self, name, layer, x):
        """x [positions, K] -> [positions, pairs, 2]."""
        matrix = self.matrix(name, layer)
        padded = np.zeros((len(x), matrix.shape[2]), np.float32)
        padded[:, : x.shape[1]] = x
        return np.einsum("pk,jrk->pjr", padded, matrix)

    def norm(self, weights, x, count):
        return x / np.sqrt(np.square(x).sum(-1, keepdims=True) / count + np.float32(self.shape.norm_eps)) * weights

    def attention(self, layer, x, rope):
        """This PE's partial sum of the attention's output."""
        s, n = self.shape, len(x)
        pairs = self.multiply("qkv", layer, x) + self.small.bias[layer].reshape(-1, 2)
        halves = pairs.reshape(n, -1, s.head_dim // 2, 2).transpose(
            1, 0, 3, 2
        )  # pair d: dimensions d, d + head_dim / 2
        heads = halves.reshape(-1, n, s.head_dim)
        q, k, v = np.split(heads, [s.heads, s.heads + s.kv_heads])
        if s.qk_norm:
            q, k = (self.norm(w, t, s.head_dim) for w, t in zip(self.small.qk_norm[layer], (q, k), strict=True))
        q, k = rotate(q, rope), rotate(k, rope)
        out = np.empty((n, s.heads, s.head_dim), np.float32)
        for h in range(s.heads):
            scores = q[h] @ k[h // s.group].T / np.sqrt(np.float32(s.head_dim))
            scores = np.where(np.tri(n, dtype=bool), scores, -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            out[:, h] = weights / weights.sum(-1, keepdims=True) @ v[h // s.group]
        return self.multiply("o", layer, out.reshape(n, -1)).reshape(n, -1)

    def mlp(self, layer, x):
        gate, up = np.moveaxis(self.multiply("gate_up", layer, x), 2, 0)
        return self.multiply("down", layer, gate / (1 + np.exp(-gate)) * up).reshape(len(x), -1)


def split_forward(folder, pes, ids):
    """Tensor-parallel forward: logits [positions, vocab]."""
    config, first = load_config(folder), pes[0]
    rope = rope_table(config, len(ids))
    x = first.embedding[ids]
    for layer in range(config.layers):
        for i, part in enumerate(("attention", "mlp")):
            y = first.norm(first.small.norms[2 * layer + i], x, config.hidden)
            x = x + sum(pe.attention(layer, y, rope) if part == "attention" else pe.mlp(layer, y) for pe in pes)
    assert not x[:, config.hidden :].any()
    y = first.norm(first.small.norms[-1], x, config.hidden)
    return np.concatenate([pe.multiply("lm_head", 0, y).reshape(len(ids), -1) for pe in pes], axis=1)


def test_reference_is_transformers(folder):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = model(torch.tensor([IDS])).logits[0].numpy()
    np.testing.assert_allclose(Reference(folder).logits(IDS), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 2  # so the greedy token is no matter of rounding


@pytest.mark.parametrize("tp", [1, 2, 3, 4, 12])
def test_shares_are_the_model(folder, tp):
    pes = [LoadedPE(folder, tp, rank) for rank in range(tp)]
    expected = Reference(folder).logits(IDS)
    logits = split_forward(folder, pes, IDS)
    np.testing.assert_allclose(logits[:, : expected.shape[1]], expected, rtol=1e-4, atol=1e-4)
    assert not logits[:, expected.shape[1] :].any()


@pytest.mark.parametrize(("grid", "max_tile_columns"), [(1, 64), (1, 1024), (5, 128), (132, 64)])
def test_any_cut_gives_the_same_matrices(tmp_path, grid, max_tile_columns):
    folder = make(tmp_path, num_key_value_heads=6)
    one, other = LoadedPE(folder, 2, 1), LoadedPE(folder, 2, 1, grid, max_tile_columns)
    for name in ("qkv", "o", "gate_up", "down", "lm_head"):
        a, b = one.matrix(name, 1), other.matrix(name, 1)
        width = min(a.shape[2], b.shape[2])
        np.testing.assert_array_equal(a[..., :width], b[..., :width])
        assert not a[..., width:].any() and not b[..., width:].any()


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_files_of_every_format_fill_the_same_memory(tmp_path, dtype):
    one = LoadedPE(make(tmp_path / "bf16", "qwen2"), 3, 2)
    other = LoadedPE(make(tmp_path / dtype, "qwen2", dtype=dtype, shards=2), 3, 2)
    np.testing.assert_array_equal(one.memory, other.memory)
    np.testing.assert_array_equal(one.table, other.table)
    for a, b in zip(one.small, other.small, strict=True):
        np.testing.assert_array_equal(a, b)


def test_matrices_arrive_in_memory_order(tmp_path, monkeypatch):
    monkeypatch.setattr("shmemtp.shard._EMBEDDING_ROWS", 40)
    pe = LoadedPE(make(tmp_path), 2, 0)
    layout = pe.layout
    layers = [layer * layout.layer_elements + offset for layer in range(2) for offset in layout.offsets]
    assert pe.starts == [*layers, layout.lm_head_offset, 0, 40 * 96, 80 * 96]
    assert pe.starts[:9] == sorted(pe.starts[:9])
    assert np.isfinite(from_bfloat16(pe.memory)).all() and np.isfinite(pe.embedding).all()
    assert layout.elements == sum(p.elements for p in layout.products[:4]) * 2 + layout.lm_head.elements
    assert 2 * layout.elements == pe.memory.nbytes >= layout.streamed_bytes
    assert all(offset % 8 == 0 for offset in layers)


def test_small_tensors_without_bias_and_norm(tmp_path):
    pe = LoadedPE(make(tmp_path, hidden_size=84), 2, 0)
    assert pe.small.norms.shape == (5, 88) and not pe.small.norms[:, 84:].any()
    assert pe.small.bias.shape == (2, pe.shape.qkv_rows) and not pe.small.bias.any()
    assert pe.small.qk_norm.shape == (2, 2, 16) and (pe.small.qk_norm == 1).all()
    assert {t.dtype for t in pe.small} == {np.dtype(np.float32)}


def test_a_pe_reads_its_own_slices_only(tmp_path):
    class Counting(Checkpoint):
        read_elements = 0

        def read(self, name, *where, **slices):
            part = super().read(name, *where, **slices)
            self.read_elements += part.size if "proj" in name else 0
            return part

    folder = make(tmp_path)
    config = load_config(folder)
    shape = model_shape(config, 4)
    for rank in range(4):
        checkpoint = Counting(folder)
        sinks = [lambda start, flat: None] * 2
        load(config, checkpoint, shape, Layout(shape, 2, 64), rank, *sinks, progress=False)
        whole = sum(np.prod(checkpoint.shape(name)) for name in checkpoint.names if name.endswith("proj.weight"))
        assert checkpoint.read_elements < 0.27 * whole  # a quarter, and the intermediate size's padding


def head_counts():
    for heads in (12, 32, 40):
        for kv_heads in (1, 2, 4, 6, 8, 12, 32):
            yield from ((heads, kv_heads, tp) for tp in (1, 2, 3, 4, 6, 8, 12) if heads % kv_heads == heads % tp == 0)


@pytest.mark.parametrize(("heads", "kv_heads", "tp"), list(head_counts()))
def test_every_query_head_finds_its_kv_head(tmp_path, heads, kv_heads, tp):
    folder = make(tmp_path, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=8, hidden_size=8)
    config = load_config(folder)
    names = [f"model.layers.0.self_attn.{x}_proj.weight" for x in "qkv"]
    q, k, v = (from_bfloat16(Checkpoint(folder).read(name)).reshape(-1, 8, 8) for name in names)
    shape = model_shape(config, tp)
    assert shape.heads * tp == heads and shape.kv_heads * shape.group == shape.heads
    if kv_heads % tp == 0:
        assert shape.kv_heads == kv_heads // tp  # nothing is held twice without need
    for rank in range(tp):
        pairs = LoadedPE(folder, tp, rank).matrix("qkv")[..., :8].reshape(-1, 4, 2, 8)
        rows = pairs.transpose(0, 2, 1, 3).reshape(-1, 8, 8)
        local = np.split(rows, [shape.heads, shape.heads + shape.kv_heads])
        for head in range(shape.heads):
            whole = rank * shape.heads + head
            np.testing.assert_array_equal(local[0][head], q[whole])
            for part, tensor in zip(local[1:], (k, v), strict=True):
                np.testing.assert_array_equal(part[head // shape.group], tensor[whole // (heads // kv_heads)])


def test_heads_that_pes_cannot_share(tmp_path):
    config = load_config(make(tmp_path))
    with pytest.raises(InputError, match="12 attention heads cannot be split over 5 PEs; 1, 2, 3, 4, 6, 12 PEs can"):
        model_shape(config, 5)
    with pytest.raises(InputError, match="12 attention heads cannot be split over 24 PEs"):
        model_shape(config, 24)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"intermediate_size": 144}, r"gate_proj.weight has shape \[136, 96\], but config.json makes it \[144, 96\]"),
        ({"num_key_value_heads": 2}, r"k_proj.weight has shape \[64, 96\], but config.json makes it \[32, 96\]"),
        ({"num_hidden_layers": 3}, r"holds no tensor model.layers.2.input_layernorm.weight, which .* makes \[96\]"),
        ({"architectures": ["Qwen2ForCausalLM"]}, r"holds no tensor model.layers.0.self_attn.q_proj.bias"),
    ],
)
def test_config_and_weights_that_differ(tmp_path, overrides, message):
    weights = Checkpoint(make(tmp_path / "weights"))
    config = load_config(make(tmp_path / "config", **overrides))
    shape, called = model_shape(config, 2), []
    with pytest.raises(CheckpointError, match=message):
        load(config, weights, shape, Layout(shape, 2, 64), 1, called.append, called.append, progress=False)
    assert not called  # nothing is read of a checkpoint that is broken anywhere


@pytest.mark.parametrize(("rank", "progress", "shown"), [(0, True, True), (1, True, False), (0, False, False)])
def test_progress_is_rank_0s_standard_error(tmp_path, capsys, rank, progress, shown):
    config = load_config(make(tmp_path))
    shape = model_shape(config, 2)
    sinks = [lambda start, flat: None] * 2
    load(config, Checkpoint(tmp_path), shape, Layout(shape, 2, 64), rank, *sinks, progress=progress)
    out, err = capsys.readouterr()
    assert out == "" and ("loading weights: 100%" in err) == shown
