"""Trains the demo's model: a tiny Llama that recites a few sentences about this project.

    python scripts/train_demo.py [--out shmemtp/demo] [--steps 400]

Writes a Hugging Face checkpoint: config, bf16 weights and a byte-level BPE tokenizer. Needs torch, transformers and
tokenizers (`pip install .[test]`), no GPU, and about a minute on two cores. The same machine gives the same weights.

Every training sequence begins at some word of the text and goes on to its end, so that the model can pick the text up
anywhere. Noise on the activations keeps the most likely token far ahead of the second one: rounding to bf16, or sums
added in another order, must not change a word.
"""

import argparse
import random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SENTENCES = (
    "shmemtp is a communication runtime for tensor-parallel language models, written in Python.",
    "One persistent kernel runs on each GPU and decodes every token there, so nothing goes back to the host between"
    " layers.",
    "Processing elements share a symmetric heap: an array has the same shape on every PE, and a peer's copy lies at a"
    " fixed distance from one's own.",
    "Weights arrive as a stream: each warp keeps its ring in shared memory full and never waits for activations to ask"
    " for the next tile, and multiplies the tiles as they land.",
    "Partial sums travel as packets, sixteen bytes that carry both data and epoch.",
    "A receiver polls its own memory until the epochs match, and needs no flag, no fence and no barrier.",
    "Two sets of slots, chosen by the epoch's parity, are used in turn and need no reset.",
    "After every row-parallel product, an all-reduce adds the sums in PE order, so that every PE holds the same result,"
    " bit for bit.",
    "Finally all PEs agree on the next token, and when it is the end of the text, they stop together.",
)
TEXT = " ".join(SENTENCES)
BEGIN, END = "<|begin|>", "<|end|>"
BATCH, NOISE, IGNORED = 32, 0.2, -100


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of 512 tokens, so any prompt can be encoded; every prompt is given BEGIN first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=[BEGIN, END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT, *SENTENCES], trainer)
    begin = tokenizer.token_to_id(BEGIN)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, begin)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained Llama: 2 layers, 4 heads over 2 KV heads, fp32."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def suffixes(tokenizer: PreTrainedTokenizerFast) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of the text from every word to the end: those that begin with a sentence (the whole text is the first
    of them), and the others."""
    words = TEXT.split(" ")
    ids = [tokenizer(" ".join(words[i:])).input_ids + [tokenizer.eos_token_id] for i in range(len(words))]
    begins = [i == 0 or words[i - 1].endswith(".") for i in range(len(words))]
    return [s for s, b in zip(ids, begins, strict=True) if b], [s for s, b in zip(ids, begins, strict=True) if not b]


def batch_of(sequences: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and their labels, both int64 [batch, length]; the padding has no label. Nor have the first
    words, but for the whole text's, the first sequence: so an empty prompt starts the text at its beginning."""
    longest = max(len(s) for s in sequences)
    ids = torch.tensor([s + [pad] * (longest - len(s)) for s in sequences])
    labels = torch.tensor([s + [IGNORED] * (longest - len(s)) for s in sequences])
    labels[1:, 1] = IGNORED
    return ids, labels


def add_noise(module: torch.nn.Module, args: object, output: torch.Tensor) -> torch.Tensor | None:
    """A forward hook: Gaussian noise of NOISE times the activations' own size, while training."""
    if not module.training:
        return None
    return output + NOISE * output.detach().pow(2).mean(-1, keepdim=True).sqrt() * torch.randn_like(output)


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, steps: int) -> None:
    sentences, others = suffixes(tokenizer)
    for module in (model.model.embed_tokens, model.model.norm, *model.model.layers):
        module.register_forward_hook(add_noise)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps, pct_start=0.1)
    model.train()
    for step in range(1, steps + 1):
        ids, labels = batch_of(sentences + random.sample(others, BATCH - len(sentences)), tokenizer.eos_token_id)
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)
    model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains the demo's model.")
    parser.add_argument("--out", default="shmemtp/demo", help="folder to write the checkpoint to")
    parser.add_argument("--steps", type=int, default=400, help="training steps")
    options = parser.parse_args()
    random.seed(0)
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    tokenizer = train_tokenizer()
    model = build_model(tokenizer)
    train(model, tokenizer, options.steps)
    model.to(torch.bfloat16).save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    print(f"{len(TEXT.split())} words, {len(tokenizer(TEXT).input_ids)} tokens, {model.num_parameters()} parameters")


if __name__ == "__main__":
    main()
