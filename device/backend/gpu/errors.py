"""What a call to the CUDA driver reported, as an exception."""

from cuda.bindings import driver

__all__ = ["check"]


def check(result):
    """Raises what a driver call reported; returns its values."""
    status, *values = result
    if status != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"CUDA: {driver.cuGetErrorString(status)[1].decode()} ({status.name})")
    return values[0] if len(values) == 1 else values
