"""Lines in a spectrum: how much stronger a picture is at the frequencies of a printed grid than beside them (ours).

The yardstick of the realism study and a training loss are the same formula.
"""

from __future__ import annotations

import torch
from torch import Tensor

LINES = (1 / 8, 1 / 4, 3 / 8, 1 / 2)
"""Frequencies, cycles per pixel, at which patterns of period 8 and 4 pixels show: blocks and latent cells."""

GUARD, REACH = 3, 1 / 50
"""Neighbours of a line start this many bins away, beyond the window's main lobe, and end this far, cycles per pixel."""

SMALLEST = 64
"""Pixels along the shorter side below which no spectrum is taken: lines and their neighbours would be the same."""


def hann(size: int) -> Tensor:
    """(size,) periodic window: a frequency that lies on a bin leaks into the two beside it and no further."""
    return torch.hann_window(size, periodic=True, dtype=torch.float64)


def line_logs(planes: Tensor, floor: float = 1e-6) -> Tensor:
    """(..., H, W) -> (..., 4) log of the power at `LINES` over the geometric mean of its neighbours; 0: no grid.

    Spectra of rows (and of columns) are averaged first, so that what counts is a pattern of that period whatever it
    does along the other direction; then the two directions. Differentiable, but for the neighbours: a network that
    trains on this must not learn to hide a line by printing others beside it.

    Args:
        planes: pictures.
        floor: rms, in the unit of the planes, of white noise whose power is added: what is fainter is not heard.

    Raises:
        ValueError: a side below `SMALLEST`.
    """
    if min(planes.shape[-2:]) < SMALLEST:
        raise ValueError(f"Lines in a spectrum need {SMALLEST} pixels a side or more, got {tuple(planes.shape[-2:])}.")
    return (_of_rows(planes, floor) + _of_rows(planes.transpose(-2, -1), floor)) / 2


def _of_rows(planes: Tensor, floor: float) -> Tensor:
    # Whole periods of 8 pixels, so that every line lies on a bin.
    size = planes.shape[-1] // 8 * 8
    rows = planes[..., :size]
    window = hann(size).to(rows)
    windowed = (rows - rows.mean(-1, keepdim=True)) * window
    coefficients = torch.fft.fft(windowed, dim=-1)
    spectrum = (coefficients.real.square() + coefficients.imag.square()).mean(-2)
    # Flat pictures have no power at all, and no grid.
    log_power = (spectrum + floor**2 * window.square().sum()).log()
    offsets = torch.arange(GUARD, max(GUARD + 1, int(size * REACH)) + 1, device=planes.device)
    logs = []
    for frequency in LINES:
        centre = round(frequency * size)
        # The spectrum of a real signal mirrors itself at half a cycle, so both sides exist there too.
        neighbours = torch.cat([log_power[..., centre - offsets], log_power[..., centre + offsets]], dim=-1)
        logs.append(log_power[..., centre] - neighbours.mean(-1).detach())
    return torch.stack(logs, dim=-1)
