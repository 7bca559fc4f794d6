"""The shmemtp command with a stand-in for shmemtp.llm: it says back the prompt, and does what its name says.

On the PE that SHMEMTP_TEST_PE names, or on all.
"""

import os
import signal
import sys
import types

from shmemtp.errors import InputError


class Token:
    def __init__(self, id, text):
        self.id, self.text = id, text


class LLM:
    tp_size, algorithm, load_s, compile_s = 3, "packets", 0.5, 0.25

    def __init__(self, model, pe, load_format, max_context, algorithm):
        print("library chatter")
        os.write(1, b"chatter from C\n")
        self.pe, self.model = pe, model
        here = os.environ.get("SHMEMTP_TEST_PE", "all")
        if here != "all" and int(here) != pe.rank:
            if model == "dies" or model.endswith("while-others-wait"):
                pe.barrier()
            return
        if model.startswith("fails"):
            raise InputError("no such model")
        if model.startswith("breaks"):
            raise KeyError("a bug")
        if model == "dies":
            os.kill(os.getpid(), signal.SIGKILL)

    def decode(self, token_ids):
        return "".join(f"<{id}>" for id in token_ids)

    def generate(self, prompt, on_token=None, **options):
        words = prompt.split() if isinstance(prompt, str) else [f"<{id}>" for id in prompt]
        text = [f"{word} " for word in words[: options["max_new_tokens"]]]
        for id, word in enumerate(text):
            if on_token:
                on_token(Token(id, word))
        return types.SimpleNamespace(
            prompt_ids=[1, 2],
            token_ids=list(range(len(text))),
            text="".join(text),
            stop_reason=str(sorted(options)),
            prefill_s=0.1,
            ms_per_token=2.0,
        )


sys.modules["shmemtp.llm"] = types.ModuleType("shmemtp.llm")
sys.modules["shmemtp.llm"].LLM = LLM

from shmemtp.cli import main  # noqa: E402 (it shall find the stand-in)

sys.exit(main())
