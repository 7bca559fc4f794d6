"""What the microbenchmarks are asked for: nccl-tests' flags, and a few of their own."""

import argparse
import re
import sys
from pathlib import Path

from shmemtp.agreement import Agreement, agree, exit_code, report
from shmemtp.cli import size
from shmemtp.errors import InputError, ShmemtpError
from shmemtp.log import configure
from shmemtp.world import join, launcher

TYPES = ("float", "bfloat16", "half", "int32")  # nccl-tests' names
MOST_THREADS = 512  # of a block: one machine code serves every launch, with 128 registers a thread


class _Parser(argparse.ArgumentParser):
    """Bad flags are errors like any other; help comes from one process."""

    def error(self, message):
        raise InputError(f"{message} (see --help)")

    def _print_message(self, message, file=None):
        if launcher().rank == 0:
            super()._print_message(message, file)


def parser(description, types=TYPES, **defaults):
    """The flags that all microbenchmarks share. defaults: minbytes, maxbytes, stepfactor, datatype, and others."""
    flags = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = flags.add_argument
    add("-b", "--minbytes", type=size, metavar="SIZE", help="smallest size: bytes, or 8K, 1M (%(default)s)")
    add("-e", "--maxbytes", type=size, metavar="SIZE", help="largest size (%(default)s)")
    add("-f", "--stepfactor", type=number(2), metavar="N", help="each size is the last one times N (%(default)s)")
    add("-n", "--iters", type=number(1), metavar="N", help="calls of a timed part (%(default)s)")
    add("-w", "--warmup-iters", type=number(0), metavar="N", help="calls before the first of them (%(default)s)")
    add("-d", "--datatype", choices=types, help="elements (%(default)s)")
    add("-G", "--launches", type=number(0), metavar="N", help="timed parts of graphs, 0: no graphs (%(default)s)")
    add("--repeats", type=number(1), metavar="N", help="timed parts of a kernel (%(default)s)")
    add("--launch", type=shape, metavar="GRIDxBLOCK", help="blocks of a kernel and their threads")
    add("--json", type=Path, metavar="FILE", help="write what was found here")
    add("--plot", type=Path, metavar="FILE.png", help="draw time over size here, a line for each contender")
    flags.set_defaults(**{"iters": 100, "warmup_iters": 200, "launches": 100, "repeats": 100, **defaults})
    return flags


def shape(text):
    """(blocks, threads) of "8x128"."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None or int(match[2]) > MOST_THREADS:
        raise argparse.ArgumentTypeError(f"{text!r} is no launch such as 8x128, of at most {MOST_THREADS} threads")
    return int(match[1]), int(match[2])


def number(low):
    """A flag's type: a whole number from `low` up."""

    def read(text):
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} up")
        return int(text)

    return read


def one_of(names):
    """A flag's type: some of `names`, separated by commas."""

    def read(text):
        chosen = text.split(",")
        for name in chosen:
            if name not in names:
                raise argparse.ArgumentTypeError(f"there is no {name!r}: choose from {', '.join(names)}")
        return chosen

    return read


def sizes(options):
    """The sizes asked for, in bytes: minbytes, times the factor, ..., up to maxbytes."""
    if options.minbytes > options.maxbytes:
        raise InputError(f"-b {options.minbytes} is larger than -e {options.maxbytes}")
    found, nbytes = [], options.minbytes
    while nbytes <= options.maxbytes:
        found.append(nbytes)
        nbytes *= options.stepfactor
    return found


def start(main):
    """Runs a benchmark's `main(argv)`: an error is one line, and the exit code that of the command line."""
    configure(launcher().rank)
    try:
        with Agreement(join()):
            agree(join(), "arguments", sys.argv[1:])
            main(sys.argv[1:])
    except ShmemtpError as error:
        if launcher().rank == 0:
            report(error)
        sys.exit(exit_code(error))
