"""Rotary position embedding: the angles by which a head's components turn at each position."""

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["RopeScaling", "rotations"]


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3's scaling of the rotary frequencies."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int


def rotations(head_dim: int, theta: float, scaling: RopeScaling | None, positions: int) -> np.ndarray:
    """Cosines and sines for positions 0, 1, ..., as transformers computes them.

    Returns float32 [positions, head_dim / 2, 2]: (cos, sin) of each position and frequency. Component i of a head is
    rotated together with component i + head_dim / 2.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    # Far positions magnify a frequency's last bit, so it is rounded to float32 where transformers rounds it.
    frequencies = 1 / (theta ** exponents.astype(np.float64)).astype(np.float32)
    if scaling is not None:
        frequencies = _scale(frequencies, scaling)
    angles = np.arange(positions, dtype=np.float32)[:, None] * frequencies
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def _scale(frequencies: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Long wavelengths are stretched by the factor, short ones kept, those between interpolated; float32."""
    wavelengths = np.float32(2 * math.pi) / frequencies
    turns = np.float32(scaling.original_max_position) / wavelengths  # within the original context
    smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    between = (1 - smooth) * frequencies / scaling.factor + smooth * frequencies
    return np.where(smooth < 0, frequencies / scaling.factor, np.where(smooth > 1, frequencies, between))
