"""The device contract for the host's threads: Numba's CPU target, OS threads, MPI shared memory (see ../README.md)."""
