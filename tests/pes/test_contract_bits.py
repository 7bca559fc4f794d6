"""Numbers' bits: halves as NumPy has them, pairs of bf16, elements as they stand; and tuples as arguments."""

from collections import namedtuple

import elements
import numpy as np
import pytest

from shmemtp.device import (
    Constants,
    anew,
    bfloat16_pair,
    block_size,
    float16_bits,
    float16_value,
    float32,
    kernel,
    load_bits,
    load_pair,
    rsqrt,
    store_bits,
    store_pair,
    thread_index,
    uint32,
)
from shmemtp.device.backend import NAME

BLOCK = 32 if NAME == "gpu" else 1


def on_device(device, values):
    array = device.array(values.size, values.dtype)
    array.fill(values)
    return array


@kernel
def copy_anew(source, target, count):
    for i in range(thread_index(), count, block_size()):
        target[i] = anew(source[i])


def test_anew_changes_nothing(device, run):
    values = np.random.default_rng(3).integers(0, 1 << 32, 100, np.uint32)
    target = device.array(values.size, np.uint32)
    run(copy_anew, (1, BLOCK, BLOCK), on_device(device, values), target, values.size)
    np.testing.assert_array_equal(target.numpy(), values)


@kernel
def widen_halves(bits, values, count):
    for i in range(thread_index(), count, block_size()):
        values[i] = float16_value(load_bits(bits, i))


@kernel
def narrow_halves(values, bits, count):
    for i in range(thread_index(), count, block_size()):
        store_bits(bits, i, float16_bits(values[i]))


def test_every_float16_is_itself(pe, device):
    bits = np.arange(1 << 16, dtype=np.uint16)
    values, back = device.array(bits.size, np.float32), device.array(bits.size, np.uint16)
    pe.run(widen_halves, 1, BLOCK, on_device(device, bits), values, bits.size)
    pe.run(narrow_halves, 1, BLOCK, values, back, bits.size)
    wide, numbers = bits.view(np.float16).astype(np.float32), ~np.isnan(bits.view(np.float16))
    np.testing.assert_array_equal(values.numpy(), wide)
    np.testing.assert_array_equal(back.numpy()[numbers], bits[numbers])
    assert np.isnan(back.numpy()[~numbers].view(np.float16)).all()


def many_values():
    """float32 from below the smallest half to above the largest, and what lies half way between two halves."""
    generator = np.random.default_rng(0)
    spread = generator.standard_normal(20000) * 10.0 ** generator.uniform(-9, 6, 20000)
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    return np.concatenate([spread, (halves[:-1] + halves[1:]) / 2, [0.0, -0.0, np.inf, -np.inf]]).astype(np.float32)


def test_float16_is_rounded_to_nearest_even(pe, device):
    values = many_values()
    bits = device.array(values.size, np.uint16)
    pe.run(narrow_halves, 1, BLOCK, on_device(device, values), bits, values.size)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(bits.numpy(), values.astype(np.float16).view(np.uint16))


@kernel
def pair_up(values, words, count):
    for i in range(thread_index(), count, block_size()):
        words[i] = bfloat16_pair(values[2 * i], values[2 * i + 1])


def test_a_pair_of_bf16_is_rounded_to_nearest_even(pe, device):
    values = many_values()
    values = values[: values.size // 2 * 2]
    words = device.array(values.size // 2, np.uint32)
    pe.run(pair_up, 1, BLOCK, on_device(device, values), words, values.size // 2)
    np.testing.assert_array_equal(words.numpy().view(np.uint16), elements.narrow("bfloat16", values))


@kernel
def turn_over(source, target, count):
    for i in range(thread_index(), count, block_size()):
        store_bits(target, count - 1 - i, load_bits(source, i))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.uint32, np.float32])
def test_elements_move_as_they_stand(pe, device, dtype):
    values = np.random.default_rng(1).integers(0, 256, 40 * np.dtype(dtype).itemsize, np.uint8).view(dtype)
    target = device.array(values.size, dtype)
    pe.run(turn_over, 1, BLOCK, on_device(device, values), target, values.size)
    np.testing.assert_array_equal(target.numpy().view(np.uint8), values[::-1].copy().view(np.uint8))


@kernel
def turn_pairs(source, target, each, count):
    for i in range(thread_index(), count, block_size()):
        a, b = load_pair(source, i * each)
        store_pair(target, (count - 1 - i) * each, b, a)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.float32])
def test_pairs_of_words(pe, device, dtype):
    values = np.random.default_rng(2).integers(0, 1 << 30, 40, np.uint32)
    target, each = device.array(160 // np.dtype(dtype).itemsize, dtype), 8 // np.dtype(dtype).itemsize
    pe.run(turn_pairs, 1, BLOCK, on_device(device, values.view(dtype)), target, each, 20)
    np.testing.assert_array_equal(target.numpy().view(np.uint32), values[::-1])


@kernel
def invert(values, count):
    for i in range(thread_index(), count, block_size()):
        values[i] = rsqrt(values[i])


def test_rsqrt(pe, device):
    values = np.abs(many_values())
    values = values[np.isfinite(values) & (values > 1e-30)]
    array = on_device(device, values)
    pe.run(invert, 1, BLOCK, array, values.size)
    np.testing.assert_allclose(array.numpy(), 1 / np.sqrt(values.astype(np.float64)), rtol=3 * 2**-24)


Inner = namedtuple("Inner", "shape values")
Outer = namedtuple("Outer", "scale inner target")


@kernel
def take_tuples(outer, add):
    for i in range(thread_index(), outer.inner.shape.count, block_size()):
        outer.target[i] = outer.inner.values[i] * float32(outer.scale) + uint32(add)


def test_tuples_are_arguments(pe, device):
    values = np.arange(10, dtype=np.float32)
    target = device.array(10, np.float32)
    pe.run(take_tuples, 1, BLOCK, Outer(3, Inner(Constants(count=8), on_device(device, values)), target), 2)
    np.testing.assert_array_equal(target.numpy(), [*(3 * values[:8] + 2), 0, 0])
