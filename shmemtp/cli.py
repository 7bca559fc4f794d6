"""The command line: `shmemtp generate`, `tune`, `bench` and `doctor`, alone or under mpirun.

Standard output is the answer's, on rank 0 alone; the log and errors go to standard error. An error is one line, and the
exit code 2 for bad input, else 1. SHMEMTP_DEBUG=1 adds tracebacks.
"""

import argparse
import ast
import contextlib
import functools
import importlib
import os
import re
import runpy
import sys
from importlib import metadata
from pathlib import Path

from .agreement import Agreement, agree, exit_code, report
from .errors import InputError
from .log import configure
from .world import join, launcher

__all__ = ["main", "size"]

ONE_SHOT = ("auto", "one-shot", "one-shot-put", "packets", "put")  # the last two are other names of the two before
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code. Under mpirun all processes call it."""
    arguments = sys.argv[1:] if argv is None else argv
    sys.excepthook = lambda *error: None  # an error is one line, written below or by the PE that ends the job
    try:
        with _together(arguments):
            options = _parser().parse_args(arguments)
            return options.run(options)
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except (Exception, KeyboardInterrupt) as error:
        if launcher().rank == 0:
            report(error)
        return exit_code(error)


def _together(arguments):
    """Under mpirun, what makes a failure of one process known to all. The doctor runs where MPI does not."""
    if launcher().size == 1 or arguments[:1] == ["doctor"]:
        return contextlib.nullcontext()
    return Agreement(join())


class _Parser(argparse.ArgumentParser):
    """Bad options are errors like any other; help comes from one process."""

    def error(self, message):
        raise InputError(f"{message} (see {self.prog} --help)")

    def _print_message(self, message, file=None):
        if launcher().rank == 0:
            super()._print_message(message, file)


def _parser():
    parser = _Parser(prog="shmemtp", description="Tensor-parallel LLM inference; mpirun starts one process a GPU.")
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_generate(commands)
    _add_tune(commands)
    bench = commands.add_parser(
        "bench",
        help="run a benchmark",
        description="Runs scripts/bench_NAME.py with the arguments given; NAME --help tells which it takes.",
        epilog="\n".join(["benchmarks:", *(f"  {name:<12}{what}" for name, what in _benchmarks().items())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bench.add_argument("name", metavar="NAME", nargs="?")
    bench.add_argument("arguments", nargs=argparse.REMAINDER)
    bench.set_defaults(run=_bench)
    doctor = commands.add_parser("doctor", help="say what works on this machine, and what to do about what does not")
    doctor.set_defaults(run=_doctor)
    return parser


def _version():
    try:
        return f"shmemtp {metadata.version('shmemtp')}"
    except metadata.PackageNotFoundError:
        return "shmemtp, from its sources"


def _add_generate(commands):
    parser = commands.add_parser("generate", help="continue a prompt with a model")
    add = parser.add_argument
    add("--model", required=True, metavar="DIR|NAME", help="a Hugging Face checkpoint, or a built-in model's name")
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", metavar="TEXT")
    prompt.add_argument("--prompt-ids", metavar="1,2,3", type=_token_ids, help="the prompt as token ids")
    add("--max-new-tokens", metavar="N", type=_number(int, 1), default=64)
    room = "tokens of prompt and answer that there is room for; 4096 by default, fewer if the model has"
    add("--max-context", metavar="N", type=_number(int, 1), help=room)
    add("--load-format", choices=("auto", "dummy"), default="auto", help="dummy: random weights, no checkpoint read")
    add("--temperature", metavar="T", type=_number(float, 0.0), default=0.0, help="0, the default: the likeliest token")
    add("--top-p", metavar="P", type=_number(float, 0.0, 1.0), default=1.0)
    add("--seed", metavar="N", type=_number(int, 0, 2**63 - 1), default=0)
    add("--ignore-eos", action="store_true", help="go on after a stop token, to --max-new-tokens")
    how = "how PEs add partial sums: by packets, which need P2P reach, or by NVSHMEM's put_signal"
    add("--algorithm", choices=ONE_SHOT, default="auto", help=how)
    add("--format", choices=("text", "json"), default="text")
    _add_job(parser)
    parser.set_defaults(run=_collective("generate"))


def _add_tune(commands):
    what = "measure collectives on this machine: by which algorithm and launch each size goes from then on"
    parser = commands.add_parser("tune", help=what.partition(":")[0], description=what)
    add = parser.add_argument
    largest = functools.partial(size, least=1024)
    add(
        "--max-bytes",
        metavar="SIZE",
        type=largest,
        default="4M",
        help="largest message, 8K or 1M say (%(default)s)",
    )
    add("--repeats", metavar="N", type=_number(int, 1), default=20, help="timed parts of a launch (%(default)s)")
    _add_job(parser)
    parser.set_defaults(run=_collective("tuning"))


def _add_job(parser):
    """The options of every command that starts PEs."""
    add = parser.add_argument
    add("--backend", choices=("auto", "gpu", "emulator"), default="auto")
    add("--bootstrap", choices=("unique-id", "mpi"), default="unique-id", help="how NVSHMEM starts")
    add("--verbose", action="store_true")


def size(text: str, least: int = 1) -> int:
    """A flag's type: the bytes of "512", "8K" or "1M"."""
    match = re.fullmatch(r"(\d+)([KMG]?)", text.upper())
    nbytes = int(match[1]) * UNITS[match[2]] if match else 0
    if nbytes < least:
        rule = f", {least} or more" if least > 1 else ""
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 512, 8K or 1M{rule}")
    return nbytes


def _number(kind, low, high=None):
    """An option's type: a number from low to high."""

    def read(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value or (high is not None and value > high) or value == float("inf"):
            noun = "a whole number" if kind is int else "a number"
            to = f"to {high}" if high is not None else "up"
            raise argparse.ArgumentTypeError(f"{text!r} is not {noun} from {low} {to}")
        return value

    return read


def _token_ids(text):
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of token ids such as 1,2,3") from None


def _collective(name):
    """What runs a command of all PEs: `run(options, answer)` of the module of that name."""

    def run(options) -> int:
        configure(launcher().rank, options.verbose)
        with _answer_stream() as answer:
            _agree_on_options(options)
            importlib.import_module(f".{name}", __package__).run(options, answer)
        return 0

    return run


@contextlib.contextmanager
def _answer_stream():
    """Standard output for the answer alone: what libraries write to it meanwhile goes to standard error."""
    sys.stdout.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(own), "w", encoding="utf-8") as answer:
            yield answer
    finally:
        sys.stdout.flush()
        os.dup2(own, 1)
        os.close(own)


def _agree_on_options(options):
    """Collective: before anything is loaded, all PEs were asked for the same."""
    comm = join()
    for name, value in vars(options).items():
        if name != "run":
            agree(comm, f"--{name.replace('_', '-')}", value)


def _benchmarks():
    """Name -> the first line of what its script says of itself."""
    scripts = {path.stem.removeprefix("bench_"): path.read_text() for path in sorted(SCRIPTS.glob("bench_*.py"))}
    return {name: (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0] for name, text in scripts.items()}


def _bench(options) -> int:
    known = _benchmarks()
    if options.name not in known:
        missing = f"there are none in {SCRIPTS}; they come with the sources (pip install -e . in a checkout)"
        there = f"there are {', '.join(known)}" if known else missing
        raise InputError(f"no benchmark {options.name}: {there}" if options.name else f"name a benchmark: {there}")
    script = SCRIPTS / f"bench_{options.name}.py"
    sys.argv = [str(script), *options.arguments]
    sys.path.insert(0, str(SCRIPTS))  # as Python does for a script
    runpy.run_path(str(script), run_name="__main__")
    return 0


def _doctor(options) -> int:
    if launcher().rank != 0:
        return 0
    from .doctor import examine

    return examine()
