"""Blocks of a cluster, which reach each other's shared memory, for Numba-CUDA. The contract is in ../README.md.

Sources: PTX ISA 8.6, "Cluster of Cooperative Thread Arrays", "mapa", "st.async", "mbarrier.try_wait", "fence".
"""

from numba.cuda import types

from .barriers import shared_address
from .words import function, int64, ptx, uint32

__all__ = ["cluster_rank", "cluster_size", "pairs_landed", "send_pair", "sync_cluster"]

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
    convergent=True,
)
# Relaxed, with a fence for shared memory alone: an acquire at cluster scope would empty the L1. It waits for as long as
# the hardware likes: told how long, it sleeps all that time.
_look = ptx(
    "{ .reg .pred p; mbarrier.try_wait.parity.relaxed.cluster.shared::cta.b64 p, [$1], $2; selp.u32 $0,1,0,p; }",
    "=r,r,r,~{memory}",
    uint32,
    uint32,
    uint32,
)
_fence = ptx("fence.acquire.sync_restrict::shared::cluster.cluster;", "~{memory}", types.void)


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


@function
def pairs_landed(barriers, barrier, parity):
    landed = _look(shared_address(barriers, int64(barrier)), uint32(parity)) != 0
    if landed:
        _fence()
    return landed
