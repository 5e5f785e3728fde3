"""Pictures that agree with their input: reduced to its size, they are it. The formulas are ours.

The reduction D is `idas_sr.resample.resize`, antialiased bicubic. It is linear and separable, D x = A x B^T with one
banded matrix per axis, so the nearest picture with D x = y has a closed form, ``x + D+ (y - D x)`` with
``D+ e = A^T (A A^T)^-1 e (B B^T)^-1 B``, and both inverses are solves with banded matrices. The values of a picture end
at 0 and 1; where the nearest one passes them, projecting and clipping take turns.

What D does not see, ``x - D+ D x``, is the detail of a picture: that part of it about which its input says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from scipy.linalg import cho_solve_banded, cholesky_banded
from scipy.sparse import csr_matrix
from torch import Tensor

from idas_sr.resample import axis_weights

CHUNK = 64
"""Input rows whose output is computed at a time; the same for every way in which the rows come."""
CONTEXT = 20
"""Input rows above and below them that are computed along: 16 rows away the inverse is 1e-8 of what it is here."""
ROUNDS = 16
"""Of projecting and clipping at most."""
ENOUGH = 0.25 / 255
"""Largest difference from the input at which they end: rounded to 8 bits there is none."""
PROMISED = 45.0
"""Decibels between the reduced output and the input, below which a picture gets a note."""


def check_larger(size: tuple[int, int], height: int, width: int) -> None:
    """Refuse an output of ``size`` (H, W) that holds no more than its input.

    Raises:
        ValueError: it is not larger than ``height`` x ``width`` on both sides.
    """
    if size[0] <= height or size[1] <= width:
        raise ValueError(
            f"A map or consistency needs an output larger than its input, and {size[1]}x{size[0]} is not larger than "
            f"{width}x{height}; choose a larger size, or leave it out."
        )


def consistent(image: Tensor, picture: Tensor) -> Tensor:
    """The picture in [0, 1] near ``image`` (3, H, W) in [0, 1] that reduces to ``picture`` (3, h, w) in [0, 1].

    Raises:
        ValueError: as ``check_larger``.
    """
    return Projector(picture, (image.shape[-2], image.shape[-1])).whole(image)


class Projector:
    """Takes rows of a picture from top to bottom and gives back those of its projection, as soon as they are known.

    The result does not depend on how many rows come at a time.

    Args:
        target: (C, h, w) that the projection reduces to; zeros leave the detail alone.
        size: (H, W) of the picture, whose values are in [0, 1].
        clip: keep them there. Patterns of single black and white pixels are then out of reach: no picture between 0 and
            1 reduces to them, and ``decibels`` says how near it came.

    Raises:
        ValueError: as ``check_larger``.
    """

    def __init__(self, target: Tensor, size: tuple[int, int], clip: bool = True) -> None:
        height, width = target.shape[-2:]
        check_larger(size, height, width)
        self.target, self.size, self.clip = target.detach().cpu().movedim(0, 1).float().numpy(), size, clip
        self.down, self.across = _matrix(size[0], height), _matrix(size[1], width)
        self.across_inverse = _cholesky(self.across)
        self.errors = 0.0
        # Held rows, (n, C, W), and the number of the first; the input row whose output comes next.
        self.held, self.top, self.next = np.empty((0, len(target), size[1]), np.float32), 0, 0

    def __call__(self, rows: Tensor) -> Iterator[Tensor]:
        """Take (C, n, W); give (C, m, W), as many as are finished."""
        self.held = np.concatenate([self.held, rows.detach().cpu().float().movedim(0, 1).numpy()])
        height = len(self.target)
        while self.next < height:
            first, last = max(self.next - CONTEXT, 0), min(self.next + CHUNK + CONTEXT, height)
            begin, end = self._seen(first, last)
            if self.top + len(self.held) < end:
                return
            after = min(self.next + CHUNK, height)
            own = slice(self._place(self.next) - begin, self._place(after) - begin)
            done = self._project(self.held[begin - self.top : end - self.top], first, last, begin)
            error = self.target[first:last] - _reduced(done, self.down[first:last, begin:end], self.across)
            self.errors += float(np.square(error[self.next - first : after - first], dtype=np.float64).sum())
            yield torch.from_numpy(done[own].copy()).movedim(0, 1)
            self.next = after
            keep = self._seen(max(after - CONTEXT, 0), height)[0]
            self.held, self.top = self.held[keep - self.top :].copy(), keep

    def over(self, rows: Iterable[Tensor]) -> Iterator[Tensor]:
        """All rows of the projection, of all rows of the picture."""
        for part in rows:
            yield from self(part)

    def whole(self, image: Tensor) -> Tensor:
        """(C, H, W), projected; fp32, on the CPU."""
        return torch.cat(list(self(image)), dim=1)

    def decibels(self) -> float:
        """PSNR of the reduced projection against the target, over all channels; once every row has come."""
        return -10 * math.log10(max(self.errors / self.target.size, 1e-12))

    def _place(self, row: int) -> int:
        """First output row that belongs to an input row."""
        return round(row * self.size[0] / len(self.target))

    def _seen(self, first: int, last: int) -> tuple[int, int]:
        """The output rows that input rows ``first`` to ``last`` are made of."""
        used = self.down.indices[self.down.indptr[first] : self.down.indptr[last]]
        begin = 0 if first == 0 else int(used.min())
        return begin, self.size[0] if last == len(self.target) else int(used.max()) + 1

    def _project(self, rows: np.ndarray, first: int, last: int, begin: int) -> np.ndarray:
        """(n, C, W) from output row ``begin`` -> the same projected, as far as input rows ``first`` to ``last`` say."""
        down = self.down[first:last, begin : begin + len(rows)]
        inverse, target = _cholesky(down), self.target[first:last]
        if not self.clip:
            return rows + self._spread(target - _reduced(rows, down, self.across), down, inverse)
        # D+ D is a projection, so a step of one is right for gradients, and momentum makes them few (FISTA, Beck and
        # Teboulle 2009, equations 4.1 to 4.3).
        before, weight = rows, 1.0
        for _ in range(ROUNDS):
            following = (1 + math.sqrt(1 + 4 * weight**2)) / 2
            ahead = rows + (weight - 1) / following * (rows - before)
            error = target - _reduced(ahead, down, self.across)
            before, weight = rows, following
            rows = (ahead + self._spread(error, down, inverse)).clip(0, 1)
            if np.abs(target - _reduced(rows, down, self.across)).max() <= ENOUGH:
                break
        return rows

    def _spread(self, error: np.ndarray, down: csr_matrix, inverse: np.ndarray) -> np.ndarray:
        """D+ of (k, C, w): the smallest (n, C, W) that reduces to it."""
        count, channels, width = error.shape
        solved = cho_solve_banded((inverse, True), error.reshape(count, -1)).reshape(count * channels, width)
        wide = self.across.T @ cho_solve_banded((self.across_inverse, True), solved.T)
        return (down.T @ wide.T.reshape(count, -1)).reshape(-1, channels, self.size[1])


def _reduced(rows: np.ndarray, down: csr_matrix, across: csr_matrix) -> np.ndarray:
    """D of (n, C, W): (k, C, w)."""
    count, channels, width = rows.shape
    low = (down @ rows.reshape(count, -1)).reshape(-1, width)
    return (across @ low.T).T.reshape(-1, channels, across.shape[0])


def _matrix(before: int, after: int) -> csr_matrix:
    """(after, before): the reduction of one axis."""
    first, weights = (values.numpy() for values in axis_weights(before, after))
    rows, taps = np.nonzero(weights)
    return csr_matrix((weights[rows, taps], (rows, first[rows] + taps)), shape=(after, before))


def _cholesky(matrix: csr_matrix) -> np.ndarray:
    """(b, k) lower banded factor of M M^T, in which rows of the picture meet that look at the same pixels."""
    gram = (matrix @ matrix.T).tocoo()
    place = gram.row - gram.col
    banded = np.zeros((int(place.max()) + 1, matrix.shape[0]), np.float32)
    below = place >= 0
    banded[place[below], gram.col[below]] = gram.data[below]
    return cholesky_banded(banded, lower=True)
