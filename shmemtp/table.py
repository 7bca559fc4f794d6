"""What `shmemtp tune` measured on this machine: a JSON file in the cache folder for each kind of job."""

import json
import os
import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from .cache import cache_folder
from .log import LOG
from .topology import Topology

__all__ = ["Measurement", "read_table", "table_path", "write_table"]


class Measurement(NamedTuple):
    """What an all-reduce of so many bytes takes: microseconds, with this algorithm, grid and block."""

    bytes: int
    algorithm: str
    grid: int
    block: int
    us: float


def table_path(topology: Topology) -> Path:
    """The file for jobs like this one: GPUs, PEs, nodes, links and versions are in its name."""
    key = _key(topology)
    name = "{gpu} pes {pes} nodes {nodes} {links} cuda {cuda} shmemtp {shmemtp}".format_map(key)
    return cache_folder() / "tuned" / (re.sub(r"[^\w.]+", "-", name) + ".json")


def _key(topology) -> dict[str, Any]:
    links = {link for row in topology.links for link in row if link}
    try:
        version = metadata.version("shmemtp")
    except metadata.PackageNotFoundError:
        version = "sources"
    return {
        "gpu": topology.gpu,
        "pes": topology.pes,
        "nodes": topology.nodes,
        "links": " ".join(sorted(links)),
        "cuda": topology.cuda,
        "shmemtp": version,
    }


def write_table(topology: Topology, measured: Sequence[Measurement]) -> Path:
    """Writes what was measured, one line a measurement, in place of what was there; returns the file."""
    path = table_path(topology)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ",\n".join(f"  {json.dumps(row._asdict())}" for row in measured)
    scratch = path.with_suffix(f".{os.getpid()}")  # a reader sees the old file or the new one, never half of it
    scratch.write_text(f'{{\n "for": {json.dumps(_key(topology))},\n "measured": [\n{rows}\n ]\n}}\n')
    scratch.replace(path)
    return path


def read_table(topology: Topology) -> list[Measurement] | None:
    """What was measured for jobs like this one; None, with a warning if there is a file, where nothing can be used."""
    path = table_path(topology)
    try:
        table = json.loads(path.read_text())
        if table["for"] != _key(topology):
            raise ValueError(f"it is for {table['for']}")
        return [_measurement(**row) for row in table["measured"]]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        LOG.warning("%s is left out, for it cannot be read: %s: %s", path, type(error).__name__, error)
        return None


def _measurement(bytes, algorithm, grid, block, us):
    row = Measurement(int(bytes), str(algorithm), int(grid), int(block), float(us))
    if min(row.bytes, row.grid, row.block) < 1 or not 0 < row.us < float("inf"):
        raise ValueError(f"{row} cannot have been measured")
    return row
