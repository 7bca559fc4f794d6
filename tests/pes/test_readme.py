"""The programs that README shows run as they stand there."""

import contextlib
import re
import runpy
from pathlib import Path

import pytest

import shmemtp

README = Path(__file__).parents[2] / "README.md"


PROGRAMS = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)


@pytest.fixture
def run_text(pe, tmp_path, monkeypatch):
    """run_text(program): runs it on this PE, since a process can be a PE only once, and returns its globals."""

    def run(text):
        (tmp_path / "program.py").write_text(text)
        monkeypatch.setattr(shmemtp, "init", lambda: contextlib.nullcontext(pe))
        return runpy.run_path(str(tmp_path / "program.py"), run_name="__main__")

    return run


def test_the_ring_exchange(pe, run_text, capfd):
    (program,) = [text for text in PROGRAMS if "def exchange" in text]
    run_text(program)
    assert f"PE {pe.rank} has what PE {(pe.rank - 1) % pe.size} sent\n" in capfd.readouterr().out


def test_the_collectives(pe, run_text, capfd):
    (program,) = [text for text in PROGRAMS if "all_reduce_block" in text]
    run_text(program)
    assert f"PE {pe.rank} has {((pe.size - 1) / 2 + 5) * pe.size:g}\n" in capfd.readouterr().out


def test_the_stream_and_the_loop(pe, run_text, capfd):
    if pe.size != 2:
        pytest.skip("it compiles the decode kernel, for which one PE count is enough")
    stream, loop = [text for text in PROGRAMS if "@kernel" not in text]
    ended = run_text(stream + loop)
    assert capfd.readouterr().out.startswith(" is a communication runtime" if pe.rank == 0 else "")
    assert 20 <= len(ended["answer"]) < 100
    assert ended["llm"].loop.launches == 3
    assert ended["text"]
