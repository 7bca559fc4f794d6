"""`shmemtp generate`: a prompt, continued by a model."""

import json

from .llm import LLM
from .log import LOG
from .runtime import init

__all__ = ["run"]


def run(options, answer):
    """Writes the text as it comes, or the JSON at the end, to `answer` on PE 0. Collective."""
    with init(options.backend, options.bootstrap) as pe:
        llm = LLM(
            options.model,
            pe,
            load_format=options.load_format,
            max_context=options.max_context,
            algorithm=options.algorithm,
        )
        prompt = options.prompt_ids if options.prompt is None else options.prompt
        streams = pe.rank == 0 and options.format == "text"
        unsaid = [prompt]

        def say(token):
            """Prints the prompt before the first token: a request that fails answers nothing."""
            said = [text if isinstance(text, str) else llm.decode(text) for text in unsaid]
            print(*said, token.text, sep="", end="", file=answer, flush=True)
            unsaid.clear()

        generation = llm.generate(
            prompt,
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            seed=options.seed,
            on_token=say if streams else None,
            **({"stop_tokens": ()} if options.ignore_eos else {}),
        )
        if streams:
            print(file=answer, flush=True)
        elif pe.rank == 0:
            print(json.dumps(_summary(generation, llm, pe)), file=answer, flush=True)
        _log_times(generation, llm)


def _log_times(generation, llm):
    each = generation.ms_per_token
    LOG.info(
        "%d tokens (%s): loaded in %.1f s, kernel ready in %.1f s, first token after %.2f s%s",
        *(len(generation.token_ids), generation.stop_reason, llm.load_s, llm.compile_s, generation.prefill_s),
        "" if each is None else f", then {each:.2f} ms per token",
    )


def _summary(generation, llm, pe):
    """The JSON answer; times in seconds and milliseconds."""
    return {
        "prompt_ids": [int(token) for token in generation.prompt_ids],
        "token_ids": [int(token) for token in generation.token_ids],
        "text": generation.text,
        "stop_reason": generation.stop_reason,
        "tp_size": llm.tp_size,
        "backend": pe.backend,
        "algorithm": llm.algorithm,
        "load_s": llm.load_s,
        "compile_s": llm.compile_s,
        "prefill_s": generation.prefill_s,
        "ms_per_token": generation.ms_per_token,
    }
