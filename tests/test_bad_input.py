"""What a user can get wrong, and what can go wrong for him: each one clear line, a non-zero exit, never a hang."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from checkpoints import make

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "shmemtp" / "demo"
LIMIT_S = 60  # of a command
WAIT_S = 3  # of a wait on the device, where a PE is lost
WAY_OUT_S = 12  # beyond that: PEs that failed look for the others, mpirun ends what is left, on a busy machine


def command(*options):
    return [sys.executable, "-m", "shmemtp", "generate", *map(str, options)]


def environment(**settings):
    return os.environ | {"PYTHONPATH": str(ROOT), "SHMEMTP_BACKEND": "emulator"} | settings


def errors(stderr):
    assert "Traceback" not in stderr
    return [line for line in stderr.splitlines() if line.startswith("shmemtp: error: ")]


def error(*options, pes=1, code=2, **settings):
    """Runs the command on so many PEs; returns its one error line."""
    line = command(*options)
    if pes > 1:
        line = [sys.executable, "-m", "shmemtp.launch", "-n", str(pes), *line]
    done = subprocess.run(line, env=environment(**settings), capture_output=True, text=True, timeout=LIMIT_S)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    (told,) = errors(done.stderr)
    return told.removeprefix("shmemtp: error: ")


# --- the checkpoint ---


def tensors_of(file):
    """(header, data) of a safetensors file."""
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:start]), content[start:]


def rewrite(file, header, data):
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


def edit_header(folder, name, **changes):
    """Changes what the file says of a tensor, or forgets the tensor if there is nothing to change."""
    header, data = tensors_of(folder / "model.safetensors")
    if changes:
        header[name] |= changes
    else:
        del header[name]
    rewrite(folder / "model.safetensors", header, data)


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut(file):
    file.write_bytes(file.read_bytes()[:-1000])


UP = "model.layers.1.mlp.up_proj.weight"
BROKEN = {
    "no config": (lambda f: (f / "config.json").unlink(), ["holds no config.json"]),
    "broken config": (lambda f: (f / "config.json").write_text("{"), ["config.json cannot be read"]),
    "architecture": (
        lambda f: edit_config(f, architectures=["GPT2LMHeadModel"]),
        ["GPT2LMHeadModel", "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"],
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ["model.safetensors", "only safetensors"]),
    "missing tensor": (lambda f: edit_header(f, UP), ["model.safetensors", UP, "[136, 96]"]),
    "truncated tensor": (lambda f: cut(f / "model.safetensors"), ["model.safetensors is truncated", "lm_head.weight"]),
    "another shape": (
        lambda f: edit_header(f, UP, shape=[96, 136]),
        ["model.safetensors", UP, "[96, 136]", "[136, 96]"],
    ),
    "another format": (lambda f: edit_header(f, UP, dtype="I16"), [UP, "I16", "BF16, F16 and F32"]),
    "no tokenizer": (lambda f: None, ["tokenizer.json", "token ids"]),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_checkpoint_that_cannot_be_decoded(tmp_path, what):
    damage, words = BROKEN[what]
    folder = make(tmp_path / "model")
    damage(folder)
    told = error("--model", folder, "--prompt", "some text")
    assert [word for word in words if word not in told] == [], told


def test_a_broken_checkpoint_is_told_once(tmp_path):
    """However many PEs read it."""
    folder = make(tmp_path / "model")
    edit_header(folder, UP)
    assert UP in error("--model", folder, "--prompt-ids", "1", pes=3)


def test_a_missing_shard(tmp_path):
    folder = make(tmp_path / "model", shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors" in error("--model", folder, "--prompt-ids", "1")


# --- the model and the machine ---


def test_heads_that_the_pes_cannot_share():
    told = error("--model", "tiny", "--prompt", "a", pes=3)
    assert told == "4 attention heads cannot be split over 3 PEs; 1, 2, 4 PEs can share them"


def test_more_pes_than_gpus():
    pytest.importorskip("cuda.bindings", reason="without the gpu extra there is another error")
    from shmemtp.device.backend.gpu.node import visible

    pes = len(visible()) + 1
    told = error("--model", "tiny", "--prompt", "a", "--backend", "gpu", pes=pes, SHMEMTP_BACKEND="auto")
    assert told.startswith(f"{pes} PE")
    assert f"but {pes - 1} visible GPU" in told


def test_a_model_too_large_for_the_emulator_is_told_before_it_loads():
    began = time.monotonic()
    told = error("--model", "llama-3.2-1b", "--load-format", "dummy", "--prompt-ids", "1", code=1)
    assert "bytes of shared memory a block" in told
    assert time.monotonic() - began < 20  # making its weights takes longer


def test_not_enough_memory(tmp_path):
    """A model larger than any machine; how much it needs, and how much is free."""
    config = json.loads((TINY / "config.json").read_text())
    huge = dict(hidden_size=1 << 16, intermediate_size=1 << 18, num_hidden_layers=10000)
    (tmp_path / "config.json").write_text(json.dumps(config | huge))
    told = error("--model", tmp_path, "--load-format", "dummy", "--prompt-ids", "1", code=1)
    assert "not enough memory" in told
    needed, free = (float(words.split()[-1]) for words in told.split(" GiB")[:2])
    assert needed > 10**5 > free > 0


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"SHMEMTP_HEAP_BYTES": "128"}, "SHMEMTP_HEAP_BYTES"),
        ({"SHMEMTP_TIMEOUT_S": "soon"}, "SHMEMTP_TIMEOUT_S"),
        ({"SHMEMTP_BACKEND": "tpu"}, "SHMEMTP_BACKEND"),
        ({"SHMEMTP_ALGORITHM": "ring"}, "there is no algorithm 'ring': choose one of auto, one-shot, two-shot,"),
        ({"SHMEMTP_ALGORITHM": "two-shot"}, "decoding adds partial sums in one shot: two-shot is not for it"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, "do not find each other"),
    ],
)
def test_an_environment_that_cannot_be(settings, told):
    done = subprocess.run(
        command("--model", "tiny", "--prompt", "a"),
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode in (1, 2)
    (line,) = errors(done.stderr)
    assert told in line


# --- the request ---


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--model", "tinny", "--prompt", "a"], "no folder tinny; the built-in models are tiny, llama-3.2-1b"),
        (["--model", "llama-3.1-8b", "--prompt", "a"], "load format dummy"),
        (["--model", "tiny", "--prompt-ids", "5,512"], "token id 512 is outside the vocabulary of 512"),
        (["--model", "tiny", "--prompt-ids", "-5"], "token id -5 is outside the vocabulary of 512"),
        (
            ["--model", "tiny", "--prompt-ids", "1,2,3,4,5,6,7,8", "--max-context", "8"],
            "the prompt of 8 tokens does not fit the context of 8",
        ),
        (
            ["--model", "tiny", "--prompt", "a", "--max-context", "513"],
            "a context of 513 is longer than the model's 512",
        ),
    ],
)
def test_a_request_that_cannot_be(options, told):
    assert told in error(*options)


def test_a_long_prompt_on_several_pes():
    told = error("--model", "tiny", "--prompt-ids", "1,2,3,4,5,6,7,8", "--max-context", "4", pes=2)
    assert told == "the prompt of 8 tokens does not fit the context of 4"


def test_pes_that_were_started_with_different_arguments():
    one, other = (command("--model", "tiny", "--prompt", prompt) for prompt in ("a", "b"))
    line = [sys.executable, "-m", "shmemtp.launch", "-n", "2", *one, ":", "-n", "1", *other]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 2
    assert errors(done.stderr) == ["shmemtp: error: PEs were started with different --prompt: a on PE 0-1, b on PE 2"]


# --- a PE that is lost ---


def process_of(mark, rank):
    """The process of a job's PE: the one whose environment has this job's mark and that rank."""
    wanted = {f"SHMEMTP_TEST_MARK={mark}".encode(), f"OMPI_COMM_WORLD_RANK={rank}".encode()}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted <= set((folder / "environ").read_bytes().split(b"\0")):
                return int(folder.name)
        except OSError:  # another user's, or gone by now
            continue
    raise AssertionError(f"no process is PE {rank}")


@pytest.fixture
def long_job(tmp_path):
    """(the process of a job of 3 PEs that decodes for minutes, its mark); it is in the middle of it."""
    model = shutil.copytree(TINY, tmp_path / "model")
    edit_config(model, max_position_embeddings=1 << 18, num_attention_heads=6)
    mark = uuid.uuid4().hex
    options = ["--model", model, "--load-format", "dummy", "--prompt", "a", "--ignore-eos"]
    options += ["--max-new-tokens", 1 << 17, "--max-context", 1 << 18]
    job = subprocess.Popen(
        [sys.executable, "-m", "shmemtp.launch", "-n", "3", *command(*options)],
        env=environment(SHMEMTP_TIMEOUT_S=str(WAIT_S), SHMEMTP_TEST_MARK=mark),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    started = any("TP 3 on the emulator backend" in line for line in job.stderr)  # its last step before the kernel
    time.sleep(1)
    yield job, mark
    job.terminate()  # which mpirun passes on
    _, said = job.communicate(timeout=LIMIT_S)
    assert started, said


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_pe_that_is_lost_in_mid_decode(long_job, how):
    """The others leave within the limit of a wait, and a little, and name the PE; of a dead one, one speaks for all."""
    job, mark = long_job
    lost = process_of(mark, 1)
    began = time.monotonic()
    os.kill(lost, how)
    _, said = job.communicate(timeout=LIMIT_S)
    assert time.monotonic() - began < WAIT_S + WAY_OUT_S
    assert job.returncode != 0
    first, *others = errors(said)
    assert (f"PE 1 (pid {lost}, " if how == signal.SIGKILL else "from PE 1 (slot ") in first
    assert len(others) <= (0 if how == signal.SIGKILL else 2)  # at most one from each PE, the awakened one with them
