"""Fresh noise is addressed by (seed, block row, block column): who asks, and for how much at once, changes nothing."""

import numpy as np
import pytest
import torch

from idas_sr.noise import BLOCK, block, canvas_noise


def test_block_is_philox_keyed_by_its_address() -> None:
    key = np.array([7, (2 << 32) + 5], dtype=np.uint64)
    expected = np.random.Generator(np.random.Philox(key=key)).standard_normal((4, 64, 64), dtype=np.float32)
    assert np.array_equal(block(7, 2, 5, 4), expected)
    assert np.array_equal(canvas_noise([7], (4, 64, 64), (128, 320))[0].numpy(), expected)


@pytest.mark.parametrize("other", [(8, 2, 5), (7, 5, 2), (7, 2, 6), (7, 3, 5), (7 + 2**32, 2, 5)])
def test_another_address_is_other_noise(other: tuple[int, int, int]) -> None:
    first, second = block(7, 2, 5, 2), block(*other, 2)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("origin", "size"),
    [((0, 0), (1, 1)), ((63, 63), (2, 2)), ((10, 70), (100, 60)), ((64, 0), (64, 130)), ((129, 190), (1, 10))],
)
def test_window_is_a_crop_of_the_canvas(origin: tuple[int, int], size: tuple[int, int]) -> None:
    canvas = canvas_noise([3], (4, 200, 200))
    (top, left), (height, width) = origin, size
    window = canvas_noise([3], (4, height, width), origin)
    assert torch.equal(window, canvas[..., top : top + height, left : left + width])


def test_sample_does_not_depend_on_its_batch() -> None:
    batch = canvas_noise([5, 6, 5], (3, 20, 70))
    assert torch.equal(batch[0], batch[2])
    assert not torch.equal(batch[0], batch[1])
    assert torch.equal(batch[1:2], canvas_noise([6], (3, 20, 70)))


def test_more_channels_keep_the_first_ones() -> None:
    assert torch.equal(canvas_noise([1], (8, 30, 30))[:, :4], canvas_noise([1], (4, 30, 30)))


def test_global_generators_are_left_alone() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    first = canvas_noise([1], (4, 8, 8))
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    torch.manual_seed(1)
    assert torch.equal(first, canvas_noise([1], (4, 8, 8)))


def test_large_seeds() -> None:
    for seed in (2**62 - 1, 2**64 - 1, -1):
        assert canvas_noise([seed], (1, 2, 2)).isfinite().all()


def test_is_standard_normal_and_white() -> None:
    noise = canvas_noise([11], (4, 512, 512)).double()
    assert noise.numel() > 1e6
    assert abs(float(noise.mean())) < 0.004
    assert abs(float(noise.square().mean()) - 1) < 0.006
    assert abs(float(noise.pow(4).mean()) - 3) < 0.05
    for shift in ((0, 1), (1, 0), (0, BLOCK), (BLOCK, 0)):
        assert abs(float((noise * noise.roll(shift, (2, 3))).mean())) < 0.005
    assert abs(float((noise[:, 0] * noise[:, 1]).mean())) < 0.01
