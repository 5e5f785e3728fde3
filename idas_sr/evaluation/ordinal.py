"""Whether an HD-CLIP orders degradations on photographs that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from idas_sr.data.ordered import KINDS, degrade_to_levels
from idas_sr.networks.hd_clip import HDCLIP

LEVELS = tuple(round(i / 8, 3) for i in range(9))
"""That are looked at; every second one is a trained one."""


@torch.inference_mode()
def describe_levels(network: HDCLIP, pictures: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Each picture under each kind of degradation at each level, the other kinds at 0.

    Args:
        network: HD-CLIP.
        pictures: (1, 3, h, w) in [0, 1], clean.

    Returns:
        Predicted level (P, K, L) of the kind that was done, its embedding (P, K, L, E), and the semantic one
        (P, K, L, E).
    """
    levels, degradation, semantic = [], [], []
    for number, picture in enumerate(pictures):
        rows = [
            [level if kind == own else 0.0 for kind in range(len(KINDS))]
            for own in range(len(KINDS))
            for level in LEVELS
        ]
        degraded = torch.cat([degrade_to_levels(picture, row, number) for row in rows])
        said = network(degraded * 2 - 1)
        own = torch.arange(len(KINDS)).repeat_interleave(len(LEVELS))
        which = torch.arange(len(rows))
        shape = (len(KINDS), len(LEVELS))
        levels.append(said.levels[which, own].reshape(shape))
        degradation.append(said.degradation[which, own].reshape(*shape, -1))
        semantic.append(said.semantic.reshape(*shape, -1))
    return torch.stack(levels), torch.stack(degradation), torch.stack(semantic)


def between(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Where each inner level's embedding lies on the way from the one before to the one after it.

    Args:
        embeddings: (P, L, E).

    Returns:
        Place (L - 2,) of the mean over pictures along the line between its neighbours' means, 0 and 1 being the
        neighbours; and the share (L - 2,) of pictures whose own embedding lies strictly between.
    """

    def place(x: Tensor) -> Tensor:
        before, inner, after = x[..., :-2, :], x[..., 1:-1, :], x[..., 2:, :]
        line = after - before
        return ((inner - before) * line).sum(-1) / line.square().sum(-1).clamp_min(1e-12)

    single = place(embeddings)
    return place(embeddings.mean(0)), ((single > 0) & (single < 1)).float().mean(0)


def measure_ordinal(network: HDCLIP, pictures: Sequence[Tensor]) -> dict[str, dict[str, float]]:
    """The figures, by kind of degradation, and those of the semantic embedding under ``semantic``.

    By kind: ``spearman`` of predicted and true level over all pictures and levels, ``spearman_unseen`` over the levels
    left out of training, ``spearman_one`` mean over pictures of one picture's own; ``lowest_place`` and
    ``highest_place`` of ``between`` over the left-out levels, ``share_between`` the mean share of pictures.

    Semantic: mean cosine distance ``same`` of a picture and its degraded versions, ``same_worst`` of the kind and level
    that moves it most, ``other`` of two clean pictures; ``found``: share of degraded pictures whose nearest clean one
    is their own.
    """
    levels, degradation, semantic = describe_levels(network, pictures)
    unseen = [i for i, level in enumerate(LEVELS) if level not in network.config["levels"]]
    out = {}
    for kind, name in enumerate(KINDS):
        true = np.broadcast_to(np.array(LEVELS), levels[:, kind].shape)
        said = levels[:, kind].double().numpy()
        place, share = between(degradation[:, kind])
        inner = [i - 1 for i in unseen]
        out[name] = {
            "spearman": float(spearmanr(said.ravel(), true.ravel())[0]),
            "spearman_unseen": float(spearmanr(said[:, unseen].ravel(), true[:, unseen].ravel())[0]),
            "spearman_one": float(np.mean([spearmanr(row, LEVELS)[0] for row in said])),
            "lowest_place": float(place[inner].min()),
            "highest_place": float(place[inner].max()),
            "share_between": float(share[inner].mean()),
        }
    clean = semantic[:, 0, 0]
    same = 1 - (semantic * clean[:, None, None]).sum(-1)[:, :, 1:]
    apart = 1 - clean @ clean.T
    nearest = torch.einsum("pkle,qe->pklq", semantic, clean).argmax(-1)
    own = torch.arange(len(pictures)).reshape(-1, 1, 1)
    out["semantic"] = {
        "same": float(same.mean()),
        "same_worst": float(same.mean(0).max()),
        "other": float(apart.sum() / (len(pictures) * (len(pictures) - 1))),
        "found": float((nearest == own)[:, :, 1:].float().mean()),
    }
    return out
