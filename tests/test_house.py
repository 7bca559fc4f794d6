"""The import order of the house: a module imports only from rooms below its own, and no room is a drawer."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the ground up. A module imports from its own room and from those below it; a new module needs a place here.
# "device.backend" is the face of the two backends, "device" that of all device functions, "" that of shmemtp.
ROOMS = (
    ("cache", "device.backend.shape", "device.backend.sources", "errors", "launch"),
    ("device.backend.gpu", "device.backend.emulator"),
    ("device.backend",),
    (
        "device.bfloat16",
        "device.cache",
        "device.dummy",
        "device.philox",
        "device.trace",
        "device.watch",
        "device.workers",
    ),
    (
        "device.communicator",
        "device.element",
        "device.packets",
        "device.request",
        "device.sequence",
        "device.shmem",
    ),
    (
        "device.cluster",
        "device.exchange",
        "device.lines",
        "device.product_input",
        "device.stream",
        "device.sums",
        "device.vote",
        "device.work",
    ),
    ("device.rounds",),
    (
        "device.all_gather",
        "device.all_reduce",
        "device.all_reduce_norm",
        "device.all_to_all",
        "device.broadcast",
        "device.grid",
        "device.reduce_scatter",
    ),
    ("device.all_reduce_norm_grid", "device.calls"),
    ("device.feeder", "device.matvec", "device.norm", "device.residual", "device.rope", "device.sample"),
    ("device.merge", "device.part"),
    ("device.heads",),
    ("device.attention", "device.projections"),
    ("device.layer", "device.prompt", "device.prompt.context", "device.prompt.ring"),
    ("device.prompt.product",),
    ("device.prompt.attention", "device.prompt.hidden", "device.prompt.rows"),
    ("device.prompt.passes",),
    ("device.decode",),
    ("device",),
    ("built_in", "config", "dlpack", "log", "model", "product", "rope", "shard", "text", "weights"),
    ("agreement", "algorithm", "channel", "foreign", "heap", "kernels", "table", "topology", "watchdog"),
    ("calls", "communicator"),
    ("runtime", "world"),
    ("loop", "plan", "planner", "prompt_plan", "resident", "shared_memory"),
    ("llm",),
    ("",),
    ("__main__", "cli", "doctor", "generate", "tuning"),
)
HARDWARE = {"numba", "llvmlite", "cuda", "nvshmem", "pynvml"}  # these and the like stay behind device/backend


def modules() -> dict[str, Path]:
    """Dotted name within shmemtp ("" is shmemtp/__init__.py) -> source file, of everything that is installed."""
    found = {}
    for folder, prefix in (("shmemtp", ()), ("device", ("device",)), ("launch", ("launch",))):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if folder == "shmemtp" and parts[0] in ("device", "launch"):
                continue  # the links: the same files again
            found[".".join(prefix + tuple(p for p in parts if p != "__init__"))] = path
    return found


MODULES = modules()


def nodes(tree: ast.AST):
    """The nodes of a module, less what stands under `if TYPE_CHECKING`: an annotation needs no module."""
    yield tree
    typing_only = isinstance(tree, ast.If) and ast.unparse(tree.test) == "TYPE_CHECKING"
    for child in tree.orelse if typing_only else ast.iter_child_nodes(tree):
        yield from nodes(child)


def imported(name: str) -> set[str]:
    """Absolute names that a module imports: modules, and for `from m import n` both m.n (if it is ours) and m."""
    path = MODULES[name]
    package = ["shmemtp", *name.split(".")] if name else ["shmemtp"]
    if path.name != "__init__.py":
        package.pop()
    names = set()
    for node in nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join(base + ([node.module] if node.module else []))
            below = {f"{source}.{alias.name}" for alias in node.names}
            inner = {n for n in below if n.removeprefix("shmemtp.") in MODULES}
            names |= inner | ({source} if below - inner else set())
    return names


def ours(name: str) -> set[str]:
    """What a module imports of shmemtp, without that prefix."""
    return {n.removeprefix("shmemtp").lstrip(".") for n in imported(name) if n.split(".")[0] == "shmemtp"}


def room(name: str) -> str:
    """What a module counts as in ROOMS: a backend's modules and the launcher's are one room each."""
    for folder in ("device.backend.gpu", "device.backend.emulator", "launch"):
        if name.startswith(folder + "."):
            return folder
    return name


FLOOR = {name: floor for floor, names in enumerate(ROOMS) for name in names}


@pytest.mark.parametrize("name", MODULES)
def test_imports_come_from_below(name):
    assert room(name) in FLOOR, f"give {name} a place in ROOMS"
    for target in ours(name):
        assert FLOOR.get(room(target), -1) <= FLOOR[room(name)], f"{name} imports {target} from above"


@pytest.mark.parametrize("name", [n for n in MODULES if room(n).startswith("device.backend.")])
def test_backends_do_not_know_each_other(name):
    shared = {"cache", "device.backend.shape", "device.backend.sources", "errors"}
    assert {room(target) for target in ours(name)} <= {room(name), *shared}


@pytest.mark.parametrize("name", [n for n in MODULES if not n.startswith("device.backend")])
def test_hardware_stays_behind_the_backend(name):
    assert not {n.split(".")[0] for n in imported(name)} & HARDWARE


@pytest.mark.parametrize("name", [n for n in MODULES if "device.workers" in ours(n) and n != "device.layer"])
def test_workers_meet_without_the_feeder(name):
    """In a pass `sync_block` would wait for the feeder, for ever; device/layer.py opens a block with it, before one."""
    assert "sync_block" not in MODULES[name].read_text()


def test_no_import_cycles():
    graph = {name: ours(name) & MODULES.keys() - {name} for name in MODULES}
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_short_and_have_a_noun(name):
    path = MODULES[name]
    assert len(path.read_text().splitlines()) <= 250
    assert path.name != "utils.py"


def test_links_lead_into_the_house():
    for folder in ("device", "launch"):
        link = ROOT / "shmemtp" / folder
        assert link.is_symlink()
        assert link.resolve() == ROOT / folder
