"""The draws: published Philox vectors, equality with the PyTorch form, the normal law."""

from __future__ import annotations

import ctypes
import math

import pytest
import torch
from torch import Tensor

from noisyexp.kernels import DrawKey, library, normal
from noisyexp.kernels.bindings import NoiseKey
from noisyexp.kernels.philox import normal_torch, philox

CPU = torch.device("cpu")
needs_kernels = pytest.mark.skipif(library() is None, reason="no compiled kernels")

# Counter, key, result of Philox4x32-10: the known answers published with Random123.
VECTORS = [
    ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), VECTORS)
def test_philox_in_torch(
    counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]
) -> None:
    found = philox([torch.tensor(c) for c in counter], key)
    assert tuple(int(word) for word in found) == words


@needs_kernels
@pytest.mark.parametrize(("counter", "key", "words"), VECTORS)
def test_philox_in_c(
    counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]
) -> None:
    found, out = library(), (ctypes.c_uint32 * 4)()
    assert found is not None
    found.philox_block(NoiseKey(*key, counter[3]), (ctypes.c_uint32 * 3)(*counter[:3]), out)
    assert tuple(out) == words


@needs_kernels
@pytest.mark.parametrize("shape", [(5, 7, 19), (1, 4, 16), (3, 1), (33,), (), (2, 3, 5, 65)])
@pytest.mark.parametrize("draw", [DrawKey(0), DrawKey(2**63 - 7, 3)])
def test_both_forms_draw_the_same(shape: tuple[int, ...], draw: DrawKey) -> None:
    """To the last bits of float32: a draw is at most 6, so 1e-6 absolute is two units there."""
    torch.testing.assert_close(
        normal(draw, shape, CPU), normal_torch(draw, shape, CPU), rtol=0, atol=1e-6
    )


def test_an_element_keeps_its_draw_when_the_shape_grows() -> None:
    """Key, block, row and unit decide, not the size of the array."""
    large = normal(DrawKey(11, 2), (6, 9, 40), CPU)
    assert torch.equal(normal(DrawKey(11, 2), (4, 9, 40), CPU), large[:4])
    assert torch.equal(normal(DrawKey(11, 2), (6, 3, 17), CPU), large[:, :3, :17])


@needs_kernels
def test_threads_do_not_change_a_draw() -> None:
    before = torch.get_num_threads()
    try:
        drawn = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            drawn.append(normal(DrawKey(5), (50, 20, 200), CPU))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*drawn)


def correlation(a: Tensor, b: Tensor) -> float:
    return float((a * b).mean() * math.sqrt(a.numel()))


def test_moments_and_independence() -> None:
    """Mean, variance, skewness, kurtosis; neighbours in every direction; sites, steps, calls.

    Every figure is divided by its standard error; of the 24, the largest is below 4.5 for a good
    generator with probability 0.9998.
    """
    xi = normal(DrawKey(2024), (40, 64, 256), CPU).double()
    n = xi.numel()
    found = {
        f"moment {k}": float((xi**k).mean() - mean) * math.sqrt(n / variance)
        for k, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96))
    }
    pairs = {
        "next unit": (xi[..., 1:], xi[..., :-1]),
        "half a tile on": (xi[..., 8:], xi[..., :-8]),
        "next row": (xi[:, 1:], xi[:, :-1]),
        "next row block": (xi[:, 4:], xi[:, :-4]),
        "next step": (xi[1:], xi[:-1]),
        "next key": (xi, normal(DrawKey(2025), xi.shape, CPU).double()),
        "upper half of the key": (xi, normal(DrawKey(2024 + 2**32), xi.shape, CPU).double()),
        "next call": (xi, normal(DrawKey(2024, 1), xi.shape, CPU).double()),
    }
    for name, (a, b) in pairs.items():
        found[name] = correlation(a, b)
        found[f"{name}, squares"] = correlation(a**2 - 1, b**2 - 1) / 2
    # Box-Muller makes rows 0 and 1 of a block of one radius: their squares must not share it.
    r = xi.view(40, 16, 4, 256)
    found["a pair"] = correlation(r[:, :, 0], r[:, :, 1])
    found["a pair, squares"] = correlation(r[:, :, 0] ** 2 - 1, r[:, :, 1] ** 2 - 1) / 2
    assert {name: z for name, z in found.items() if abs(z) > 4.5} == {}


def test_distribution_function() -> None:
    """Kolmogorov-Smirnov distance to the normal law, and the tails."""
    xi = normal(DrawKey(7), (20, 64, 256), CPU).double().flatten().sort().values
    n = len(xi)
    steps = torch.arange(1, n + 1, dtype=torch.float64) / n
    distance = (torch.special.ndtr(xi) - steps).abs().max()
    assert float(distance) * math.sqrt(n) < 1.95  # exceeded with probability 0.001
    beyond = int((xi.abs() > 4).sum())
    expected = n * math.erfc(4 / math.sqrt(2))
    assert abs(beyond - expected) < 4.5 * math.sqrt(expected)
    assert float(xi.abs().max()) < 5.8  # sqrt(-2 ln 2^-24)
