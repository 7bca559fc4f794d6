"""device/README.md: every device function above the contract, with the parameters that it has."""

import inspect
import re
from pathlib import Path

import shmemtp.device

FOLDER = Path(__file__).parent.parent / "device"
PAGE = (FOLDER / "README.md").read_text()
CONTRACT = (FOLDER / "backend" / "README.md").read_text()
TOLD = dict(re.findall(r"`(\w+)\(([\w, ]+)\)`", PAGE))


def parameters(name):
    found = getattr(shmemtp.device, name)
    if hasattr(found, "_fields"):
        return list(found._fields)
    return list(inspect.signature(getattr(found, "py_func", found)).parameters)


def test_functions_have_the_parameters_that_the_page_tells():
    assert {name: told.split(", ") for name, told in TOLD.items() if name != "local"} == {
        name: parameters(name) for name in TOLD if name != "local"
    }


def test_the_page_has_every_function_that_the_contract_has_not():
    public = {name for name, found in vars(shmemtp.device).items() if callable(found) and not name.startswith("_")}
    missing = {name for name in public if name not in TOLD and not re.search(rf"\b{name}\b", CONTRACT)}
    assert missing <= {"Communicator"}, "what kernels take, and open lanes of"
