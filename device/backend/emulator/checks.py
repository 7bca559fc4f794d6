"""Errors of whoever calls a collective, told at once. The contract is in ../README.md."""

from .context import function

__all__ = ["check_extent", "check_kind", "check_lane_state", "check_vector"]


@function
def check_extent(is_right):
    if not is_right:
        raise IndexError("a collective is told of elements that its array has not, or of fewer than none")


@function
def check_kind(is_right):
    if not is_right:
        raise TypeError("a collective's kind is none, or not of its array's elements")


@function
def check_lane_state(is_right):
    if not is_right:
        raise IndexError("open_lane's state is too small: local(comm.shape.lane_words, int64)")


@function
def check_vector(is_right):
    if not is_right:
        raise ValueError("all_reduce_norm takes a vector of whole 8 bytes, at a multiple of 8, of 16 KiB at most")
