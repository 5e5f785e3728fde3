"""From choices between two to one scale: the Bradley-Terry model, with ties as Davidson (1970) added them.

Of method i and j, with scores b_i and b_j and a common readiness g to call a tie,

    P(i better) : P(j better) : P(tie) = exp((b_i - b_j) / 2) : exp((b_j - b_i) / 2) : exp(g).

So b_i - b_j is the logarithm of the odds of i against j among the choices that are no ties. Maximum likelihood, with
half a win added in each direction between methods that were compared (Haldane's and Anscombe's correction; without it a
method that always wins would have no finite score). Intervals are the inverse observed information's, at 1.96 standard
errors. ``page.js`` computes the same.

Several people's votes on one picture are not independent: they see the same picture. Their intervals are the wider of
those and of the ones from the scatter of the likelihood's gradient over pictures (Liang and Zeger 1986).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.sparse.csgraph import connected_components
from scipy.stats import norm

from idas_sr.comparison.votes import Vote

CORRECTION = 0.5
"""Wins added in each direction between two methods that were compared."""
WIDTH = float(norm.ppf(0.975))
"""Standard errors to either side of a 95 % interval."""


@dataclass(frozen=True)
class Counts:
    """Judgements between ``names``: wins[i, j] times i was better than j, ties[i, j] = ties[j, i] times neither."""

    names: tuple[str, ...]
    wins: np.ndarray
    ties: np.ndarray
    skipped: int


@dataclass(frozen=True)
class Score:
    """A method's place: ``score`` in log odds (mean 0 over all methods), its 95 % interval, and raw counts."""

    name: str
    score: float
    low: float
    high: float
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class Pairwise:
    """``better`` against ``worse``: the odds among choices that are no ties, their 95 % interval, and raw counts."""

    better: str
    worse: str
    odds: float
    low: float
    high: float
    wins: int
    ties: int
    losses: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out even odds."""
        return self.low > 1


@dataclass(frozen=True)
class Scores:
    """Methods from best to worst, every pair of them that was compared, and the judgements left out as skipped."""

    methods: tuple[Score, ...]
    pairs: tuple[Pairwise, ...]
    skipped: int

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "methods": [vars(score) for score in self.methods],
            "pairs": [{**vars(pair), "is_clear": pair.is_clear} for pair in self.pairs],
            "skipped": self.skipped,
        }


def count(votes: Iterable[Vote]) -> Counts:
    """Add up choices; the methods in the order of their names."""
    every = list(votes)
    names = tuple(sorted({name for vote in every for name in (vote.left, vote.right)}))
    place = {name: index for index, name in enumerate(names)}
    wins, ties, skipped = np.zeros((len(names),) * 2), np.zeros((len(names),) * 2), 0
    for vote in every:
        left, right = place[vote.left], place[vote.right]
        if vote.choice == "left":
            wins[left, right] += 1
        elif vote.choice == "right":
            wins[right, left] += 1
        elif vote.choice == "tie":
            ties[left, right] += 1
            ties[right, left] += 1
        else:
            skipped += 1
    return Counts(names, wins, ties, skipped)


def fit(counts: Counts, by_picture: Sequence[Vote] | None = None) -> Scores:
    """Scores and intervals.

    Args:
        by_picture: the votes themselves, where those on one picture are not independent.

    Raises:
        ValueError: nothing was judged, or some methods were never compared with the others, not even indirectly.
    """
    compared = counts.wins + counts.wins.T + counts.ties
    if not compared.any():
        raise ValueError("Nothing was judged, so there are no scores; all choices are missing or were skipped.")
    number, groups = connected_components(compared)
    if number > 1:
        first, other = (counts.names[list(groups).index(group)] for group in (0, 1))
        raise ValueError(
            f"{first} and {other} were never compared, not even through others, so they have no common scale; "
            "add votes that connect them."
        )
    score, covariances = _estimate(counts, compared, by_picture)
    size = len(counts.names)
    errors = [_error(covariances, [(i, 1.0)]) for i in range(size)]
    methods = [
        Score(name, score[i], score[i] - WIDTH * errors[i], score[i] + WIDTH * errors[i], *_raw(counts, i))
        for i, name in enumerate(counts.names)
    ]
    order = sorted(range(len(methods)), key=lambda i: -score[i])
    pairs = [
        _pair(counts, i, j, score[i] - score[j], _error(covariances, [(i, 1.0), (j, -1.0)]))
        for place, i in enumerate(order)
        for j in order[place + 1 :]
        if compared[i, j]
    ]
    return Scores(tuple(methods[i] for i in order), tuple(pairs), counts.skipped)


def _raw(counts: Counts, i: int, j: int | None = None) -> tuple[int, int, int]:
    """Wins, ties and losses of i, against j or against all."""
    other = slice(None) if j is None else j
    found = counts.wins[i, other], counts.ties[i, other], counts.wins[other, i]
    return int(found[0].sum()), int(found[1].sum()), int(found[2].sum())


def _error(covariances: Sequence[np.ndarray], terms: Sequence[tuple[int, float]]) -> float:
    """Standard error of a sum of scores: the largest of what the covariances say."""
    return math.sqrt(max(sum(a * b * of[i, j] for i, a in terms for j, b in terms) for of in covariances))


def _pair(counts: Counts, i: int, j: int, difference: float, error: float) -> Pairwise:
    width = WIDTH * error
    odds, low, high = (math.exp(value) for value in (difference, difference - width, difference + width))
    return Pairwise(counts.names[i], counts.names[j], odds, low, high, *_raw(counts, i, j))


def _features(i: int, j: int, size: int, has_ties: bool) -> np.ndarray:
    """(outcomes, F) of i better, j better, a tie: half the difference of scores up, down, the readiness for ties."""
    features = np.zeros((3, size + 1))
    features[0, [i, j]], features[1, [i, j]], features[2, size] = (0.5, -0.5), (-0.5, 0.5), 1
    # A tie that nobody calls says that the readiness is nil, not that it is minus infinity.
    return features if has_ties else features[:2, :size]


def _probabilities(design: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(..., outcomes, F) features and (F,) parameters -> (..., outcomes)."""
    logits = design @ x
    values = np.exp(logits - logits.max(-1, keepdims=True))
    return values / values.sum(-1, keepdims=True)


def _estimate(
    counts: Counts, compared: np.ndarray, by_picture: Sequence[Vote] | None
) -> tuple[list[float], list[np.ndarray]]:
    """Scores (K,) with mean 0, and their covariances (K, K): the likelihood's, and that over pictures if asked for."""
    size = len(counts.names)
    pairs = [(i, j) for i in range(size) for j in range(i) if compared[i, j]]
    has_ties = bool(counts.ties.any())
    tally = np.array([(counts.wins[i, j], counts.wins[j, i], counts.ties[i, j]) for i, j in pairs])
    tally[:, :2] += CORRECTION
    design = np.stack([_features(i, j, size, has_ties) for i, j in pairs])
    tally = tally[:, : design.shape[1]]
    total = tally.sum(1)
    # The likelihood knows differences only; this holds the sum of the scores at 0 and changes nothing else.
    sum_of = np.zeros(design.shape[2])
    sum_of[:size] = 1 / math.sqrt(size)

    def cost(x: np.ndarray) -> float:
        return float(-(tally * np.log(_probabilities(design, x))).sum() + (sum_of @ x) ** 2 / 2)

    def gradient(x: np.ndarray) -> np.ndarray:
        expected = total[:, None] * _probabilities(design, x)
        return np.einsum("po,pof->f", expected - tally, design) + sum_of * (sum_of @ x)

    def curvature(x: np.ndarray) -> np.ndarray:
        p = _probabilities(design, x)
        mean = np.einsum("po,pof->pf", p, design)
        around = design - mean[:, None]
        return np.einsum("p,po,pof,pog->fg", total, p, around, around) + np.outer(sum_of, sum_of)

    start = np.zeros(design.shape[2])
    found = minimize(cost, start, method="trust-exact", jac=gradient, hess=curvature, options={"gtol": 1e-9}).x
    # One plain step more: quadratic convergence takes it to the last digit.
    found = found - np.linalg.solve(curvature(found), gradient(found))
    covariance = np.linalg.inv(curvature(found)) - np.outer(sum_of, sum_of)
    covariances = [covariance[:size, :size]]
    if by_picture is not None and (scatter := _scatter(by_picture, counts.names, found, has_ties)) is not None:
        covariances.append((covariance @ scatter @ covariance)[:size, :size])
    return found[:size].tolist(), covariances


def _scatter(votes: Sequence[Vote], names: Sequence[str], x: np.ndarray, has_ties: bool) -> np.ndarray | None:
    """(F, F) sum over pictures of the outer products of their gradients; None where there is one picture only."""
    gradients: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(len(x)))
    for vote in votes:
        if vote.choice != "skip":
            features = _features(names.index(vote.left), names.index(vote.right), len(names), has_ties)
            outcome = ("left", "right", "tie").index(vote.choice)
            gradients[vote.picture] += features[outcome] - _probabilities(features, x) @ features
    if len(gradients) < 2:
        return None
    each = np.stack(list(gradients.values()))
    return float(len(each) / (len(each) - 1)) * each.T @ each


def pooled(votes: Sequence[Sequence[Vote]]) -> Scores:
    """Scores of several people's votes together, each vote counting once; errors as `fit`."""
    every = [vote for one in votes for vote in one]
    return fit(count(every), every if len(votes) > 1 else None)
