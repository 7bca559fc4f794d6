"""Blocks of a cluster, which reach each other's shared memory, for the host's threads. The contract is in ../README.md.

The blocks' rows of shared memory stand one after another, and so do their barriers' (launch.py).
"""

from numba.types import int64

from . import context as record
from .arrays import field_view
from .buffers import LINE
from .context import field_reader, function
from .meetings import meet
from .memory import advance, barrier_test, peer
from .vectors import store_half
from .words import block_index, block_size

__all__ = ["cluster_rank", "cluster_size", "pairs_landed", "send_pair", "sync_cluster"]

cluster_size = field_reader(record.CLUSTER_SIZE)
_row_bytes = field_reader(record.SHARED_ROW)
_barrier = field_view(record.BLOCK_BARRIER, int64, LINE // 8)
CLUSTER_WORDS = 4  # where the two words of a cluster's barrier stand in its first block's line


@function
def cluster_rank():
    return block_index() % cluster_size()


@function
def sync_cluster():
    if cluster_size() * block_size() > 1:
        meet(peer(_barrier(), -LINE * cluster_rank()), CLUSTER_WORDS, cluster_size() * block_size())


@function
def send_pair(array, i, rank, a, b, barriers, barrier):
    if rank >= cluster_size():
        raise IndexError("there is no such block in the cluster")
    distance = (int64(rank) - cluster_rank()) * _row_bytes()
    store_half(peer(array, distance), i, a, b)
    advance(peer(barriers, distance), barrier, -8, 0)


@function
def pairs_landed(barriers, barrier, parity):
    return barrier_test(barriers, barrier, parity)
