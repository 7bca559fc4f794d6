"""A launch put together once and started any number of times: a start costs the host a few microseconds."""

import ctypes

from cuda.bindings import driver

from .arguments import pack
from .arrays import DeviceArray
from .constants import Constants
from .current import enter
from .errors import check
from .launch import Launch

__all__ = ["Prepared", "configuration"]

ADDRESS = 4  # which of a packed array's parameters is its address (`pack`)


def configuration(grid, block, shared_bytes, together, early, cluster):
    """What the driver wants to know of a launch but its stream."""
    config = driver.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = grid, 1, 1
    config.blockDimX, config.blockDimY, config.blockDimZ = block, 1, 1
    config.sharedMemBytes = shared_bytes
    attributes = []
    if together:
        attributes.append(driver.CUlaunchAttribute())
        attributes[-1].id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
        attributes[-1].value.cooperative = 1
    if cluster is not None:  # also for clusters of one: without, kernels may not send within one
        attributes.append(driver.CUlaunchAttribute())
        attributes[-1].id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        size = attributes[-1].value.clusterDim
        size.x, size.y, size.z = cluster, 1, 1
    if early:
        attributes.append(driver.CUlaunchAttribute())
        attributes[-1].id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        attributes[-1].value.programmaticStreamSerializationAllowed = 1
    config.attrs, config.numAttrs = attributes, len(attributes)
    return config


class Prepared:
    """A kernel with its launch's shape and arguments. Made by `Device.prepare`; keeps the arguments alive."""

    def __init__(self, compiled, config, args, stream):
        self._compiled, self._config, self._args, self._own_stream = compiled, config, args, stream
        packed, self._changeable = [], {}
        for position, value in enumerate(args):
            parameters = pack((value,))
            if not isinstance(value, (tuple, Constants)):
                self._changeable[position] = parameters[ADDRESS if isinstance(value, DeviceArray) else 0]
            packed += parameters
        self._packed = packed
        self._pointers = (ctypes.c_void_p * len(packed))(*map(ctypes.addressof, packed))
        self._parameters = ctypes.addressof(self._pointers)

    def start(self, stream=None, changes=None):
        """Starts it on a stream, a handle (int; None: the device's own); returns a `Launch`.

        `changes`: {position in the arguments: a number, or for an array an address}, for this start and later ones.
        The array there has the same shape, and whoever gives the address keeps its memory.
        """
        if changes:
            for position, value in changes.items():
                self._changeable[position].value = value
        enter()
        config = self._config
        config.hStream = stream = self._own_stream if stream is None else driver.CUstream(stream)
        check(driver.cuLaunchKernelEx(config, self._compiled.function, self._parameters, 0))
        return Launch(stream, self)
