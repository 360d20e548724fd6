"""The augmentation against its definitions in numpy, against Pillow, and in the data path."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from torch.testing import assert_close

from memdpc.data.augment import MEAN, STD, Augment, colour_maps, draw_crop, normalize_clips
from memdpc.data.clips import Clips
from memdpc.data.video import write_video
from memdpc.data.videos import load_dataset

LUMA = np.array([0.299, 0.587, 0.114])


def apply(picture, colour):
    """[H, W, 3] in [0, 1] by its affine map, not cut off, in the picture's precision."""
    x = torch.tensor(picture)
    A, b = colour_maps(torch.tensor(colour), x.mean((0, 1)))
    return (x @ A.T + b).numpy()


# The definitions, in numpy and float64: nothing here is taken from the library.


def brightness(x, factor):
    return x * factor


def contrast(x, factor):
    return factor * x + (1 - factor) * (x @ LUMA).mean()


def saturation(x, factor):
    return factor * x + (1 - factor) * (x @ LUMA)[..., None]


def hue(x, turn):
    i, q = x @ [0.596, -0.274, -0.322], x @ [0.211, -0.523, 0.312]
    turned = (i + 1j * q) * np.exp(-2j * math.pi * turn)
    back = np.linalg.inv([LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    return np.stack([x @ LUMA, turned.real, turned.imag], -1) @ back.T


STEPS = brightness, contrast, saturation, hue
numbers = st.tuples(
    st.floats(0.5, 1.5), st.floats(0.5, 1.5), st.floats(0.5, 1.5), st.floats(-0.25, 0.25)
)


@given(
    factors=numbers,
    order=st.permutations(range(4)),
    channel=st.integers(-1, 2),
    seed=st.integers(0, 99),
)
def test_one_map_is_the_steps_in_any_order(factors, order, channel, seed):
    """1e-5, not cut off; the channel is copied first, as in the released code."""
    picture = np.random.default_rng(seed).random((7, 5, 3))
    expected = picture if channel < 0 else picture[..., [channel] * 3]
    for i in order:
        expected = STEPS[i](expected, factors[i])
    assert np.abs(apply(picture, [*factors, float(channel)]) - expected).max() < 1e-5
    assert (
        np.abs(apply(picture.astype(np.float32), np.float32([*factors, channel])) - expected).max()
        < 1e-5
    )


@pytest.mark.parametrize(
    "which,enhance",
    [(0, ImageEnhance.Brightness), (1, ImageEnhance.Contrast), (2, ImageEnhance.Color)],
)
@pytest.mark.parametrize("factor", [0, 0.5, 0.9, 1, 1.3, 1.5])
def test_steps_are_pillows(which, enhance, factor):
    """Pillow works in 8 bits and rounds the luma, so it agrees to 1.5 of 255. It has no hue."""
    picture = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    colour = [1.0, 1.0, 1.0, 0.0, -1.0]
    colour[which] = float(factor)
    ours = 255 * apply(picture / 255, colour).clip(0, 1)
    theirs = np.asarray(enhance(Image.fromarray(picture)).enhance(factor), dtype=float)
    assert np.abs(ours - theirs).max() <= 1.5


def test_hue_goes_the_way_of_hsv():
    """Positive turns go from red by yellow to green.

    A third of a turn of a pale red is greenish, of a pale green bluish.
    """
    red, green = np.array([[[0.6, 0.4, 0.4]]]), np.array([[[0.4, 0.6, 0.4]]])
    assert hue(red, 1 / 3).argmax() == apply(red, [1.0, 1, 1, 1 / 3, -1]).argmax() == 1
    assert (
        apply(green, [1.0, 1, 1, 1 / 3, -1]).argmax() == 2
        and apply(red, [1.0, 1, 1, -1 / 3, -1]).argmax() == 2
    )


@given(
    width=st.integers(1, 2000),
    height=st.integers(1, 2000),
    seed=st.integers(0, 2**31),
    min_area=st.floats(0.01, 1),
)
def test_crops_fit(width, height, seed, min_area):
    x, y, w, h = draw_crop(np.random.default_rng(seed), width, height, min_area)
    assert x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= width and y + h <= height
    if min(w, h) > 50:
        assert 3 / 4 - 0.03 < w / h < 4 / 3 + 0.03
    if w * h > 10000 and not w == h == min(
        width, height
    ):  # a central square that is taken for want of another may be smaller
        assert w * h > (min_area - 0.03) * width * height
    assert all(isinstance(v, int) for v in (x, y, w, h))


def test_crops_reach_everywhere():
    boxes = np.array([draw_crop(np.random.default_rng(i), 320, 240) for i in range(3000)])
    area = boxes[:, 2] * boxes[:, 3] / (320 * 240)
    assert 0.495 < area.min() < 0.51 and 0.95 < area.max() <= 1
    assert (
        boxes[:, 0].min() == 0
        and (boxes[:, 0] + boxes[:, 2]).max() == 320
        and (boxes[:, 1] + boxes[:, 3]).max() == 240
    )
    assert draw_crop(np.random.default_rng(0), 1000, 100)[2:] == (100, 100) or draw_crop(
        np.random.default_rng(0), 1000, 100, 0.01
    )


def test_an_augmentation_without_chance_draws_nothing():
    colours = dict(brightness=0, contrast=0, saturation=0, hue=0, channel_copy=0)
    fixed = Augment(min_area=1, flip=0, **colours)
    assert fixed.draw(np.random.default_rng(0), 32, 24, 8) == ((0, 0, 32, 24), False, {})
    mirrored = Augment(min_area=1, flip=1, **colours)
    assert mirrored.draw(np.random.default_rng(0), 32, 24, 8)[1] is True


def test_probability_zero_is_no_jitter_but_channels_are_still_copied():
    colour = Augment(probability=0, channel_copy=1).draw(np.random.default_rng(0), 32, 24, 90)[2][
        "colour"
    ]
    assert colour.shape == (90, 5) and colour.dtype == np.float32
    assert (colour[:, :4] == [1, 1, 1, 0]).all() and set(colour[:, 4]) == {0, 1, 2}


def test_per_clip_is_one_draw():
    colour = Augment(per_frame=False).draw(np.random.default_rng(1), 32, 24, 40)[2]["colour"]
    assert (colour == colour[0]).all() and colour.flags.writeable
    colour = Augment().draw(np.random.default_rng(1), 32, 24, 40)[2]["colour"]
    assert len(np.unique(colour[:, 0])) == 40


def clips_and_colours(B=3, N=2, T=4, side=9, seed=0):
    rng = np.random.default_rng(seed)
    clip = torch.tensor(rng.integers(0, 256, (B, N, 3, T, side, side + 1), dtype=np.uint8))
    return clip, torch.tensor(
        np.stack([Augment().draw(rng, 9, 9, N * T)[2]["colour"] for _ in range(B)])
    )


def test_normalize_clips_is_the_steps_frame_by_frame():
    """Every frame gets its own numbers, in the order of the frames; cut off once; normalised."""
    clip, colour = clips_and_colours()
    out = normalize_clips(clip, colour)
    assert out.shape == clip.shape and out.dtype == torch.float32 and out.is_contiguous()
    for b, n, t in np.ndindex(3, 2, 4):
        x, values = (
            clip[b, n, :, t].permute(1, 2, 0).double().numpy() / 255,
            colour[b, 4 * n + t].double().tolist(),
        )
        if values[4] >= 0:
            x = x[..., [int(values[4])] * 3]
        for step, value in zip(STEPS, values):
            x = step(x, value)
        expected = torch.tensor((x.clip(0, 1) - MEAN) / STD).permute(2, 0, 1).float()
        assert_close(out[b, n, :, t], expected, atol=1e-4, rtol=0)


def test_without_colours_only_normalised():
    clip, _ = clips_and_colours()
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (MEAN, STD))
    assert_close(normalize_clips(clip), (clip / 255 - mean) / std)
    neutral = torch.tensor([1.0, 1, 1, 0, -1]).expand(3, 8, 5)
    assert_close(normalize_clips(clip, neutral), normalize_clips(clip), atol=1e-5, rtol=0)


def test_clips_of_a_batch_do_not_mix():
    clip, colour = clips_and_colours()
    whole = normalize_clips(clip, colour)
    for b in range(3):
        assert_close(normalize_clips(clip[b : b + 1], colour[b : b + 1]), whole[b : b + 1])
    changed = clip.clone()
    changed[1, 0, :, 2] = 255 - changed[1, 0, :, 2]
    moved = (normalize_clips(changed, colour) != whole).any(-1).any(-1).any(2)  # [B, N, T]
    assert moved.nonzero().tolist() == [[1, 0, 2]]


def test_values_stay_in_range():
    clip, colour = clips_and_colours()
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (MEAN, STD))
    x = normalize_clips(clip, colour) * std + mean
    assert (
        x.min() > -1e-6 and x.max() < 1 + 1e-6 and (x < 1e-6).any() and (x > 1 - 1e-6).any()
    )  # cut off, at both ends


@pytest.mark.parametrize("num_workers", [0, 2])
def test_through_the_loader(tmp_path, monkeypatch, num_workers):
    """Numbers of workers change nothing, and a batch of colours has a row a frame."""
    monkeypatch.setenv("MEMDPC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "f").mkdir()
    for i in range(3):
        write_video(
            tmp_path / f"f/{i}.mp4",
            np.random.default_rng(i).integers(0, 255, (20, 48, 64, 3), dtype=np.uint8),
        )
    clips = Clips(
        load_dataset("folder", tmp_path / "f", progress=False),
        2,
        3,
        2,
        24,
        seed=1,
        augment=Augment(),
    )
    batch = next(
        iter(
            torch.utils.data.DataLoader(
                clips, batch_sampler=[[(4, 2), (4, 0)]], num_workers=num_workers
            )
        )
    )
    assert (
        batch["clip"].shape == (2, 2, 3, 3, 24, 24)
        and batch["clip"].dtype == torch.uint8
        and batch["colour"].shape == (2, 6, 5)
    )
    assert (batch["clip"][0].numpy() == clips[4, 2]["clip"]).all() and (
        batch["colour"][1].numpy() == clips[4, 0]["colour"]
    ).all()
    assert normalize_clips(batch["clip"], batch["colour"]).isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_gpu_says_the_same():
    clip, colour = clips_and_colours()
    assert_close(
        normalize_clips(clip.cuda(), colour.cuda()).cpu(),
        normalize_clips(clip, colour),
        atol=1e-4,
        rtol=1e-4,
    )
