"""What a realism study says: means over its pictures per value of realism, and how well the dial keeps its promise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scipy.stats import spearmanr

from idas_sr.evaluation.spectrum import RINGS
from idas_sr.lines import LINES

Record = Mapping[str, Any]
"""What `idas_sr.evaluation.sweep.study_file` returns for one picture."""

SCALARS = ("psnr_y", "ssim_y", "niqe", "sqdist", "high_band", "t_r", "a_r", "b_r")
CSV_HEAD = ("variant", "image", "realism", "seed", "t_hat", *SCALARS, "gap", *(f"line_{f:g}" for f in LINES))


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are known; None where none is."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def summarise(records: Sequence[Record], realism: Sequence[float]) -> dict[str, Any]:
    """Means of a study.

    Returns:
        ``reference`` (niqe, lines), ``realism``, and ``variants``: label -> ``curves`` (measure -> one mean per
        realism; gap_mean and gap_abs for the position-state gap), ``lines`` and ``spectrum`` (per realism),
        ``diversity`` (rms in 8-bit levels and high_share per realism, where there are several seeds), ``spearman``
        (per picture, of realism and psnr_y averaged over seeds) and ``dial``, figures about the whole range.
    """
    labels = list(records[0]["variants"])
    return {
        "images": len(records),
        "realism": list(realism),
        "reference": {
            "niqe": mean([record["reference"]["niqe"] for record in records]),
            "lines": _geometric_means([record["reference"]["lines"] for record in records]),
        },
        "variants": {label: _variant([r["variants"][label] for r in records], realism) for label in labels},
    }


def _variant(measured: Sequence[Mapping[str, Any]], realism: Sequence[float]) -> dict[str, Any]:
    rows = [[row for picture in measured for row in picture["rows"] if row["realism"] == r] for r in realism]
    curves = {name: [mean([row.get(name) for row in at]) for at in rows] for name in SCALARS}
    curves["gap_mean"] = [mean([row["gap"] for row in at]) for at in rows]
    curves["gap_abs"] = [mean([None if row["gap"] is None else abs(row["gap"]) for row in at]) for at in rows]
    curves = {name: values for name, values in curves.items() if any(value is not None for value in values)}
    found: dict[str, Any] = {
        "curves": curves,
        "lines": [_geometric_means([row["lines"] for row in at]) for at in rows],
        "spectrum": [[mean([row["spectrum"][i] for row in at]) for i in range(RINGS)] for at in rows],
        "spearman": [_spearman(picture["rows"], realism) for picture in measured],
    }
    if all(picture["diversity"] for picture in measured):
        found["diversity"] = {
            name: [mean([picture["diversity"][i][name] for picture in measured]) for i in range(len(realism))]
            for name in ("rms", "high_share")
        }
    found["dial"] = _dial(found)
    return found


def _spearman(rows: Sequence[Mapping[str, Any]], realism: Sequence[float]) -> float | None:
    """Rank correlation of realism and psnr_y of one picture; None where psnr_y does not move."""
    values = [mean([row["psnr_y"] for row in rows if row["realism"] == r]) for r in realism]
    if len(values) < 2 or len(set(values)) == 1 or None in values:
        return None
    return float(spearmanr(realism, values)[0])


def _dial(found: Mapping[str, Any]) -> dict[str, float | None]:
    """Figures about the whole range: spans, the largest step the wrong way, rank correlation, grid."""
    curves = found["curves"]
    lines = [value for at in found["lines"] for value in at if value is not None]
    return {
        "spearman_mean": mean(found["spearman"]),
        "psnr_y_span": _span(curves.get("psnr_y"), -1),
        "psnr_y_largest_rise": _worst_step(curves.get("psnr_y"), 1),
        "niqe_fall": _span(curves.get("niqe"), -1),
        "niqe_largest_rise": _worst_step(curves.get("niqe"), 1),
        "high_band_rise": _span(curves.get("high_band"), 1),
        "high_band_largest_fall": _worst_step(curves.get("high_band"), -1),
        "line_furthest_from_1": max(lines, key=lambda value: abs(math.log(value))) if lines else None,
    }


def _span(values: Sequence[float | None] | None, sign: int) -> float | None:
    """Last less first value, times ``sign``."""
    if not values or values[0] is None or values[-1] is None:
        return None
    return sign * (values[-1] - values[0])


def _worst_step(values: Sequence[float | None] | None, sign: int) -> float | None:
    """Largest step in the direction of ``sign`` between neighbouring values of realism; at most 0 if there is none."""
    steps = [sign * (b - a) for a, b in zip(values or [], (values or [])[1:], strict=False) if None not in (a, b)]
    return max(steps) if steps else None


def _geometric_means(rows: Sequence[Sequence[float | None]]) -> list[float | None]:
    logs = [mean([None if row[i] is None else math.log(row[i]) for row in rows]) for i in range(len(LINES))]  # type: ignore[arg-type]
    return [None if value is None else math.exp(value) for value in logs]


def csv_rows(records: Sequence[Record]) -> Iterator[list[Any]]:
    """One row per variant, picture, realism and seed, columns as in `CSV_HEAD`."""
    for record in records:
        for label, measured in record["variants"].items():
            for row in measured["rows"]:
                head = [label, record["stem"], row["realism"], row["seed"], record["t_hat"]]
                yield [*head, *(row.get(name) for name in SCALARS), row["gap"], *row["lines"]]
