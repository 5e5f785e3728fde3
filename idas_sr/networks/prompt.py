"""Cached prompt tokens, so that no text encoder runs at inference."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class PromptTokens(ModelMixin, ConfigMixin):
    """Named token sequences (L, D): learned for `compact`, a cached text embedding for `sd-turbo`."""

    @register_to_config
    def __init__(
        self, names: tuple[str, ...] = ("clean", "degraded", "none"), length: int = 4, width: int = 64
    ) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(len(names), length, width))

    def lookup(self, name: str, batch: int) -> Tensor:
        """(batch, L, D) tokens called ``name``.

        Raises:
            ValueError: if there are no tokens of that name.
        """
        names = list(self.config["names"])
        if name not in names:
            raise ValueError(f"There are no prompt tokens called {name!r}; this model has {', '.join(names)}.")
        return self.tokens[names.index(name)].expand(batch, -1, -1)
