"""What every test of the project shares: tables that tests add to pytest's closing summary, and the command line."""

import functools

import pytest
from commands import start

SUITES, COMPILED = "test_spmd.py", "test_compiled_kernels.py"  # take minutes
_TABLES = pytest.StashKey[list]()


@pytest.fixture(scope="session")
def add_table(request):
    """add_table(title, heads, rows): shown when all tests have run, whether they passed or not."""
    tables = request.config.stash.setdefault(_TABLES, [])
    return lambda *table: tables.append(table)


@pytest.fixture
def run(tmp_path):
    """run(*arguments, pes=0, program=PROGRAM, **environment): see `commands.start`."""
    return functools.partial(start, tmp_path)


def pytest_collection_modifyitems(items):
    """What takes longest first: the rest then fills the other worker's time."""
    items.sort(key=lambda item: (SUITES, COMPILED, item.path.name).index(item.path.name))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A worker takes a file, for the sake of its fixtures, or an emulator's suite: those of GPUs follow each other."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return nodeid if f"{SUITES}::test_suite[emulator" in nodeid else super()._split_scope(nodeid)

    return Scheduling(config, log)


def pytest_sessionfinish(session):
    """Where pytest has workers (xdist), theirs are the tables, and the closing summary is another process's."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tables"] = session.config.stash.get(_TABLES, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    node.config.stash.setdefault(_TABLES, []).extend(getattr(node, "workeroutput", {}).get("tables", []))


def pytest_terminal_summary(terminalreporter, config):
    for title, heads, rows in config.stash.get(_TABLES, []):
        terminalreporter.section(title)
        lines = [[str(cell) for cell in line] for line in (heads, *rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for first, *others in lines:
            cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
            terminalreporter.write_line("  ".join([first.ljust(widths[0]), *cells]))
