"""What a launch's shape must be, and how many its arguments, on whatever it runs."""

import inspect

from shmemtp.errors import InputError, ShmemtpError

MOST_OF_A_CLUSTER = 8  # blocks: what every GPU that has clusters can place (CUDA's "portable" size)


def check_clusters(grid, cluster):
    """Raises if no grid of so many blocks can be in clusters of so many (None: in no clusters)."""
    if cluster is None:
        return
    if grid < 1 or not 1 <= cluster <= MOST_OF_A_CLUSTER or grid % cluster:
        rule = f"a cluster has 1 to {MOST_OF_A_CLUSTER}, and they divide the grid"
        raise ShmemtpError(f"no such launch: {grid} blocks in clusters of {cluster} ({rule})")


def check_arguments(kernel, args):
    """Raises unless these are as many arguments, or types of them, as a kernel takes; it may be a Python function."""
    function = getattr(kernel, "py_func", kernel)
    names = list(inspect.signature(function).parameters)
    if len(args) != len(names):
        takes = f"{len(names)} argument{'s' * (len(names) != 1)} ({', '.join(names)})"
        raise InputError(f"{function.__name__} takes {takes} and was given {len(args)}")
