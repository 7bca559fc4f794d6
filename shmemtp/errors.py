"""Errors a user can act on: one clear line each, printed by the command line on rank 0."""

__all__ = ["CheckpointError", "InputError", "ShmemtpError", "TimeoutError_"]


class ShmemtpError(RuntimeError):
    """Base of every error that this project raises on purpose."""


class InputError(ShmemtpError):
    """What was asked for cannot be done: a model's name, a prompt, an option, a number of PEs."""


class CheckpointError(ShmemtpError):
    """A checkpoint's config.json or weights are missing, broken, or of a kind that is not supported."""


class TimeoutError_(ShmemtpError):
    """A wait on the device passed its limit; the message names the PE waited for and what was expected of it."""
