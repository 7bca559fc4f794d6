"""Checks of what a collective is told, which on a GPU would cost time: only the emulator has them. The contract is in
../README.md.
"""

from .words import function

__all__ = ["check_extent", "check_kind", "check_lane_state", "check_vector"]


@function
def check_extent(is_right):
    pass


@function
def check_kind(is_right):
    pass


@function
def check_lane_state(is_right):
    pass


@function
def check_vector(is_right):
    pass
