"""The contract on NVIDIA GPUs: Numba-CUDA kernels, inline PTX, NVSHMEM."""
