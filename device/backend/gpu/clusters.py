"""Blocks of a cluster, which reach each other's shared memory, for Numba-CUDA. The contract is in ../README.md.

Sources: PTX ISA 8.x, "Cluster of Cooperative Thread Arrays", "mapa", "st.async", "barrier.cluster".
"""

from numba.cuda import types

from .barriers import shared_address
from .words import function, int64, ptx, uint32

__all__ = ["cluster_rank", "cluster_size", "send_pair", "sync_cluster"]

_rank = ptx("mov.u32 $0, %cluster_ctarank;", "=r", uint32)
_size = ptx("mov.u32 $0, %cluster_nctarank;", "=r", uint32)
_map = ptx("mapa.shared::cluster.u32 $0, $1, $2;", "=r,r,r", uint32, uint32, uint32, pure=True)
_send = ptx(
    "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [$0], {$1,$2}, [$3];",
    "r,r,r,r,~{memory}",
    types.void,
    *[uint32] * 4,
)
sync_cluster = ptx(
    "fence.mbarrier_init.release.cluster; barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;",
    "~{memory}",
    types.void,
)


@function
def cluster_rank():
    return int64(_rank())


@function
def cluster_size():
    return int64(_size())


@function
def send_pair(array, i, rank, a, b, barriers, barrier):
    there = _map(shared_address(array, int64(i)), uint32(rank))
    _send(there, uint32(a), uint32(b), _map(shared_address(barriers, int64(barrier)), uint32(rank)))
