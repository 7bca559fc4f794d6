"""What a launch's shape must be, on whatever it runs."""

from shmemtp.errors import ShmemtpError

MOST_OF_A_CLUSTER = 8  # blocks: what every GPU that has clusters can place (CUDA's "portable" size)


def check_clusters(grid, cluster):
    """Raises if no grid of so many blocks can be in clusters of so many (None: in no clusters)."""
    if cluster is None:
        return
    if grid < 1 or not 1 <= cluster <= MOST_OF_A_CLUSTER or grid % cluster:
        rule = f"a cluster has 1 to {MOST_OF_A_CLUSTER}, and they divide the grid"
        raise ShmemtpError(f"no such launch: {grid} blocks in clusters of {cluster} ({rule})")
