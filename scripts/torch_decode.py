"""A token's decode by torch, on the same GPUs: the contender of bench_decode.py.

The same shapes and random weights: one token's operations in one CUDA graph, partial sums added by NCCL, a greedy
choice on the device. Once as torch runs them one by one, and once as torch.compile fuses them between the all-reduces,
which is how gpt-fast decodes, but for the residual's additions, which stay on their own. Memory is static and the
position a tensor, so that a graph serves every token.
"""

import numpy as np
from contenders import Contenders, why_not

NAMES = {False: "torch, CUDA graph, NCCL", True: "torch.compile, CUDA graph, NCCL"}


class Layer:
    """One layer's weights and cache: bf16."""

    def __init__(self, make, shape, context):
        columns, kv_columns = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.norms = [make(shape.hidden), make(shape.hidden)]
        self.qkv, self.o = make(columns + 2 * kv_columns, shape.hidden), make(shape.hidden, columns)
        self.gate_up, self.down = make(2 * shape.intermediate, shape.hidden), make(shape.hidden, shape.intermediate)
        self.keys, self.values = (make(shape.kv_heads, context, shape.head_dim) for _ in range(2))


class TorchDecode:
    """shape: a PE's ModelShape. context: positions of the cache. compiled: whether torch.compile fuses."""

    def __init__(self, torch, dist, device, shape, context, compiled):
        self._torch, self._dist, self._shape, self._functional = torch, dist, shape, torch.nn.functional

        def make(*size):
            return torch.randn(size, dtype=torch.bfloat16, device=device) * 0.02

        self._layers = [Layer(make, shape, context) for _ in range(shape.layers)]
        self._embedding, self._norm = make(shape.total_vocab, shape.hidden), make(shape.hidden)
        self._head = make(shape.vocab, shape.hidden)
        self._angles = make(context, shape.head_dim // 2).float()
        self._positions = torch.arange(context, device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.token = torch.zeros(1, dtype=torch.int64, device=device)
        self._best = torch.zeros(2, dtype=torch.float32, device=device)
        self._all_best = torch.zeros(dist.get_world_size(), 2, dtype=torch.float32, device=device)
        wrap = torch.compile if compiled else lambda function: function
        self._begin, self._attention = wrap(self._begin), wrap(self._attention)
        self._mlp, self._choose = wrap(self._mlp), wrap(self._choose)

    def step(self):
        """Decodes `token` at `position` and puts the next ones in their place."""
        hidden = self._begin()
        for layer in self._layers:
            hidden = self._add(hidden, self._attention(hidden, layer))
            hidden = self._add(hidden, self._mlp(hidden, layer))
        self._best.copy_(self._choose(hidden))
        self._dist.all_gather_into_tensor(self._all_best.view(-1), self._best)
        winner = self._all_best[:, 0].argmax(keepdim=True)
        number = self._all_best[:, 1].gather(0, winner).long() + winner * self._shape.vocab
        self.token.copy_(number.clamp(max=self._shape.total_vocab - 1))
        self.position.add_(1)

    def _add(self, hidden, part):
        if self._shape.tp > 1:
            self._dist.all_reduce(part)
        return hidden + part

    def _begin(self):
        return self._functional.embedding(self.token, self._embedding)

    def _attention(self, hidden, layer):
        torch, shape = self._torch, self._shape
        x = self._functional.rms_norm(hidden, (shape.hidden,), layer.norms[0])
        heads = self._functional.linear(x, layer.qkv).view(-1, shape.head_dim)
        angle = self._angles[self.position]
        cosine, sine = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        first, second = heads[: shape.heads + shape.kv_heads].chunk(2, -1)
        turned = torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)
        layer.keys.index_copy_(1, self.position, turned[shape.heads :].unsqueeze(1))
        layer.values.index_copy_(1, self.position, heads[shape.heads + shape.kv_heads :].unsqueeze(1))
        queries = turned[: shape.heads].view(shape.kv_heads, -1, shape.head_dim) * shape.head_dim**-0.5
        scores = (queries @ layer.keys.transpose(1, 2)).float()
        weights = scores.masked_fill(self._positions > self.position, float("-inf")).softmax(-1).to(x.dtype)
        return self._functional.linear((weights @ layer.values).view(1, -1), layer.o)

    def _mlp(self, hidden, layer):
        x = self._functional.rms_norm(hidden, (self._shape.hidden,), layer.norms[1])
        gate, up = self._functional.linear(x, layer.gate_up).chunk(2, -1)
        return self._functional.linear(self._functional.silu(gate) * up, layer.down)

    def _choose(self, hidden):
        x = self._functional.rms_norm(hidden, (self._shape.hidden,), self._norm)
        value, index = self._functional.linear(x, self._head).float().max(-1)
        return self._torch.cat([value, index.float()])


def measure_torch(pe, shape, context, tokens):
    """Collective: for each contender its name, its median ms per token from position `context` on, or why it has none.

    Of each token the PE that took longest counts.
    """
    reason = next(filter(None, pe.comm.allgather(why_not(pe))), None)
    if reason:
        return [(name, None, reason) for name in NAMES.values()]
    contenders = Contenders(pe)
    import torch
    import torch.distributed as dist

    found = []
    for compiled, name in NAMES.items():
        device, positions = torch.device("cuda", pe.device.ordinal), context + tokens + 2
        reason, graph = "", None
        try:
            decode = TorchDecode(torch, dist, device, shape, positions, compiled)
            with torch.no_grad():
                graph = _capture(torch, decode)
        except RuntimeError as error:  # what torch cannot compile here
            reason = str(error).partition("\n")[0]
        reason = next(filter(None, pe.comm.allgather(reason)), "")
        median = None
        if not reason:
            decode.position.fill_(context)
            times = pe.comm.allgather(_times(torch, pe, graph, tokens))
            median = float(np.median(np.max(times, axis=0)))
        found.append((name, median, reason))
        decode = graph = None
        torch.cuda.empty_cache()
    contenders.close()
    return found


def _capture(torch, decode):
    """One step as a CUDA graph, after some that were not."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        for _ in range(3):
            decode.step()
    stream.synchronize()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        decode.step()
    return graph


def _times(torch, pe, graph, tokens):
    """Milliseconds of each token, between events on the stream that replays the graph."""
    torch.cuda.synchronize()
    pe.barrier()
    stream, events = torch.cuda.Stream(), [torch.cuda.Event(enable_timing=True) for _ in range(tokens + 1)]
    with torch.cuda.stream(stream):
        graph.replay()
        events[0].record()
        for event in events[1:]:
            graph.replay()
            event.record()
    stream.synchronize()
    return [before.elapsed_time(after) for before, after in zip(events, events[1:], strict=False)]
