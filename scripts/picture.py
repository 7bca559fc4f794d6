"""Time over size, log-log: a picture for each operation, a line for each contender."""

from shmemtp.errors import InputError

__all__ = ["draw", "pyplot"]


def pyplot():
    try:
        import matplotlib
    except ImportError:
        raise InputError("--plot needs matplotlib: pip install 'shmemtp[plot]'") from None
    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot


def draw(rows, path, title):
    """rows: what a report has (report.Row). path: the PNG file."""
    operations = list(dict.fromkeys(row.operation for row in rows))
    figure, axes = pyplot().subplots(1, len(operations), figsize=(6.4 * len(operations), 4.8), squeeze=False)
    for axis, operation in zip(axes[0], operations, strict=True):
        lines = {}
        for row in rows:
            if row.operation == operation and row.times is not None:
                lines.setdefault(row.contender, []).append((row.size, row.time()))
        for contender, points in lines.items():
            axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=contender)
        points = sorted({size for line in lines.values() for size, _ in line})
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(points, [_spell(size) for size in points])
        axis.set(title=f"{operation}, {title}", xlabel="bytes", ylabel="microseconds")
        axis.grid(True, which="both", alpha=0.3)
        axis.legend(fontsize="small")
    figure.savefig(path, dpi=120, bbox_inches="tight")


def _spell(nbytes):
    """8192 as 8K."""
    for unit in ("", "K", "M"):
        if nbytes % 1024 or not nbytes:
            return f"{nbytes}{unit}"
        nbytes //= 1024
    return f"{nbytes}G"
