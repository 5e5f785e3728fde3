"""A session gives what the pipeline gives, and computes the anchor once."""

import numpy as np
import pytest
import torch
from conftest import tiny_pipeline
from PIL import Image
from skimage import data

from idas_sr.networks.visual_prompt import VisualPrompt
from idas_sr.pipeline import IDaSSRPipeline
from idas_sr.session import Session

# Sides that are no multiples of anything.
CAT = Image.fromarray(data.chelsea()[60:97, 100:153])


def test_every_restoration_is_the_pipelines(tiny: IDaSSRPipeline) -> None:
    session = Session(tiny, CAT)
    for realism, seed, upscale in ((0.0, 1, 4.0), (0.7, 1, 4.0), (0.7, 2, 4.0), (1.0, 2, 2.5), (0.0, 1, 4.0)):
        ours = session(realism, seed, upscale=upscale, color_fix="wavelet")
        theirs = tiny(CAT, realism, upscale, seed=seed, color_fix="wavelet", return_trace=True)
        assert np.array_equal(np.asarray(ours.images[0]), np.asarray(theirs.images[0]))
        assert ours.trace == theirs.trace


def test_the_picture_is_encoded_anchored_and_looked_at_once() -> None:
    pipe, looking = tiny_pipeline(), VisualPrompt(8, encoder_width=16).eval()
    pipe.restorer.conditioner = looking
    calls = {"encoder": 0, "estimator": 0, "conditioner": 0, "unet": 0}
    parts = {"encoder": pipe.vae.encoder, "estimator": pipe.estimator, "conditioner": looking, "unet": pipe.unet}

    def counting(name: str):  # type: ignore[no-untyped-def]
        def hook(*_: object) -> None:
            calls[name] += 1

        return hook

    for name, part in parts.items():
        part.register_forward_hook(counting(name))
    session = Session(pipe, CAT)
    assert session.positions([0.5]) == []
    for realism in (0.2, 0.5, 0.9):
        session(realism)
    assert calls == {"encoder": 1, "estimator": 1, "conditioner": 1, "unet": 3}


def test_positions_are_those_of_the_trace(tiny: IDaSSRPipeline) -> None:
    session = Session(tiny, CAT)
    told = [session(realism).trace[0]["t_r"] for realism in (0.0, 0.4, 1.0)]
    assert session.positions([0.0, 0.4, 1.0]) == pytest.approx(told)


def test_a_session_has_one_picture(tiny: IDaSSRPipeline) -> None:
    with pytest.raises(ValueError, match="one picture, not 2"):
        Session(tiny, torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match="belongs to one picture"):
        tiny([CAT, CAT], memory=Session(tiny, CAT).memory)
