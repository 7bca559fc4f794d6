"""Constants, bits and float functions in a kernel (device/backend/README.md)."""

import math

import numpy as np

from shmemtp.device import (
    Constants,
    as_bits,
    as_float32,
    cos,
    divide,
    exp,
    float32,
    function,
    int64,
    kernel,
    local,
    log,
    sin,
    sqrt,
    uint32,
)


@function
def scaled_sum(shape, values):
    copies = local(shape.count, float32)
    for i in range(shape.count):
        copies[i] = values[i]
    total = float32(0)
    for i in range(shape.count):
        total += copies[shape.count - 1 - i]
    return total * shape.scale if shape.scaled else total


@kernel
def use_constants(shape, values, out):
    private = local(4, uint32)
    private[3] = as_bits(shape.scale)
    out[0] = scaled_sum(shape, values)
    out[1] = as_float32(private[3])
    out[2] = shape.count - shape.negative


def test_constants(run, device):
    values, out = device.array(8, np.float32), device.array(3, np.float32)
    values.fill(np.arange(8, dtype=np.float32))
    smallest = (1, device.warp_size, device.warp_size)
    for count, scale, scaled, total in ((8, 0.1, True, 28 * np.float32(0.1)), (3, 0.5, False, 3)):
        run(use_constants, smallest, Constants(count=count, scale=scale, scaled=scaled, negative=-3), values, out)
        np.testing.assert_array_equal(out.numpy(), np.array([total, scale, count + 3], np.float32))


def test_equal_constants_share_a_kernel(device):
    values, out = device.array(8, np.float32), device.array(3, np.float32)
    compiled = [
        device.compile(use_constants, (Constants(scale=0.25, negative=-1, count=count, scaled=True), values, out))
        for count in (5, 5, 6)
    ]
    assert compiled[1].cached
    assert compiled[1].seconds < 0.1
    again = Constants(negative=-1, scaled=True, count=5, scale=0.25)  # in another order
    assert device.compile(use_constants, (again, values, out)).cached


def test_constants_are_plain_records_in_python():
    record = Constants(hidden=64, eps=1e-5, bias=True)
    assert (record.hidden, record.eps, record.bias) == (64, 1e-5, True)


@function
def element_of_local(shape, start, i):
    private = local(shape.count, int64)
    for j in range(shape.count):
        private[j] = start + j
    return private[i]


@kernel
def many_locals(shape, which, out):
    total = int64(0)
    for i in range(shape.rounds):
        private = local(shape.count, int64)
        for j in range(shape.count):
            private[j] = i - j
        total += private[which[0]] + element_of_local(shape, i, which[0])
    out[0] = total


def test_local_arrays_of_a_long_loop_take_no_more_room(run, device):
    """20,000 times 4 KiB, twice: more than any stack holds."""
    which, out = device.array(1, np.int64), device.array(1, np.int64)
    which.fill(np.array([300]))
    run(many_locals, (1, device.warp_size, device.warp_size), Constants(count=512, rounds=20_000), which, out)
    assert out.numpy()[0] == 2 * sum(range(20_000))


@kernel
def reinterpret(bits, out):
    for i in range(bits.shape[0]):
        out[i] = as_bits(as_float32(bits[i]))
    out[bits.shape[0]] = as_bits(as_float32(uint32(0x3F80) << uint32(16)))  # bfloat16 one
    out[bits.shape[0] + 1] = as_bits(float32(-2))


def test_bits(run, device):
    patterns = np.array([0, 1, 0x7F800000, 0xFF800000, 0x80000000, 0x3F9D70A4, 0xC2F6E979], np.uint32)
    bits, out = device.array(patterns.size, np.uint32), device.array(patterns.size + 2, np.uint32)
    bits.fill(patterns)
    run(reinterpret, (1, device.warp_size, device.warp_size), bits, out)
    np.testing.assert_array_equal(out.numpy(), [*patterns, 0x3F800000, 0xC0000000])


@kernel
def evaluate(x, out):
    count = x.shape[0]
    for i in range(count):
        out[i] = exp(-x[i])
        out[count + i] = log(x[i])
        out[2 * count + i] = sqrt(x[i])
        out[3 * count + i] = sin(x[i])
        out[4 * count + i] = cos(x[i])
        out[5 * count + i] = divide(x[i], float32(3))


def test_functions(run, device):
    points = np.float32([1e-4, 0.01, 0.3, 1, 2.5, 7, 20])
    x, out = device.array(points.size, np.float32), device.array(6 * points.size, np.float32)
    x.fill(points)
    run(evaluate, (1, device.warp_size, device.warp_size), x, out)
    functions = lambda p: math.exp(-p), math.log, math.sqrt, math.sin, math.cos, lambda p: p / 3
    want = [f(p) for f in functions for p in points.tolist()]
    np.testing.assert_allclose(out.numpy(), want, rtol=2e-6, atol=2e-6)
