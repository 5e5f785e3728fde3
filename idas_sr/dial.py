"""What a model knows about its own dial: where equal moves are equal steps, and how much realism a severity asks for.

Steering takes realism as it stands (``raw``), and what equal moves of it change is not equal. A calibrated dial puts a
monotone table before it, measured by ``scripts/calibrate_dial.py`` on held-out photographs and stored in the model's
configuration. 0 and 1 stay where they are. The design is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from idas_sr.types import Anchor

CALIBRATED, RAW = "calibrated", "raw"
DIALS = (CALIBRATED, RAW)
"""Units that realism may be given in."""

AUTO = "auto"
"""In place of a number: the picture's severity chooses."""


@dataclass(frozen=True)
class Calibration:
    """Tables between the dial that people turn and the realism that steering takes.

    Attributes:
        table: raw realism at the positions 0, 1/n, ..., 1 of the calibrated dial, linear in between; rises from 0 to 1.
        timesteps: declared timesteps (severities), ascending; empty: the model cannot choose by itself.
        realism: raw realism that is chosen at each of them, linear in between and constant beyond.

    Raises:
        ValueError: a table that does not rise from 0 to 1, or severities that do not fit together.
    """

    table: tuple[float, ...] = (0.0, 1.0)
    timesteps: tuple[float, ...] = ()
    realism: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        rises = all(low < high for low, high in pairwise(self.table))
        if len(self.table) < 2 or not rises or self.table[0] != 0 or self.table[-1] != 1:
            raise ValueError(f"The table of a dial rises from 0 to 1, not {list(self.table)}.")
        if len(self.timesteps) != len(self.realism) or any(a >= b for a, b in pairwise(self.timesteps)):
            raise ValueError(f"Severities ascend, each with one realism, not {list(self.timesteps)}.")
        if not all(0 <= value <= 1 for value in self.realism):
            raise ValueError(f"realism must lie between 0 and 1, not {list(self.realism)}.")

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | None, steering: Mapping[str, Any]) -> Calibration:
        """What a model's configuration says; the raw dial where it says nothing or was measured with another steering.

        Args:
            config: ``{"steering": ..., "table": [...], "auto": {"timesteps": [...], "realism": [...]}}``, or None.
            steering: ``{"name": ..., "args": {...}}`` of the pipeline.

        Raises:
            ValueError: tables that are none.
        """
        if config is None or config["steering"] != dict(steering):
            return cls()
        auto = config.get("auto") or {}
        return cls(tuple(config["table"]), tuple(auto.get("timesteps", ())), tuple(auto.get("realism", ())))

    @property
    def without_table(self) -> Calibration:
        """The same severities, with the dial as steering takes it."""
        return Calibration(timesteps=self.timesteps, realism=self.realism)

    @property
    def _positions(self) -> np.ndarray:
        return np.linspace(0, 1, len(self.table))

    def raw_of(self, position: float) -> float:
        """Position of the dial in [0, 1] -> raw realism; 0 and 1 exactly themselves."""
        return float(np.interp(position, self._positions, self.table))

    def position_of(self, raw: float) -> float:
        """Inverse of ``raw_of``."""
        return float(np.interp(raw, self.table, self._positions))

    def raw_map(self, grey: Tensor) -> Tensor:
        """``raw_of`` of every place of a map (h, w) in [0, 1]."""
        table = torch.tensor(self.table, dtype=grey.dtype)
        steps = len(self.table) - 1
        index = (grey * steps).floor().long().clamp(0, steps - 1)
        return table[index] + (grey * steps - index) * (table[index + 1] - table[index])

    def by_severity(self, timestep: Tensor) -> Tensor:
        """Declared timesteps (B,) -> raw realism (B,).

        Raises:
            ValueError: the model has no table of severities.
        """
        if not self.timesteps:
            raise ValueError(
                "This model has no table of severities, which realism 'auto' needs (scripts/calibrate_dial.py makes "
                "one, for the model's own steering); give a number between 0 and 1."
            )
        chosen = np.interp(timestep.detach().double().cpu().numpy(), self.timesteps, self.realism)
        return torch.from_numpy(chosen).to(timestep)


@dataclass(frozen=True)
class BySeverity:
    """Realism that a picture chooses itself, for ``Method.restore``: known once it is anchored."""

    calibration: Calibration

    def __call__(self, anchor: Anchor) -> Tensor:
        """(B,) raw realism of the anchored pictures."""
        return self.calibration.by_severity(anchor.timestep)
