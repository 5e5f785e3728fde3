"""A benchmark's result as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from idas_sr.benchmarking.run import OURS


def to_markdown(result: dict[str, Any]) -> str:
    """The result as tables."""
    machine, model = result["environment"], result["model"]
    lines = [
        f"{machine.get('gpu') or machine['cpu']}, {machine['threads']} threads of {machine['cores']} cores, torch "
        f"{machine['torch']}; {model['name']} in {model['precision']}; measured peak "
        f"{result['measured_peak_gflops']:.0f} GFLOP/s in {model['precision']}.",
    ]
    for size in result["sizes"]:
        lines += ["", f"{size['lq']} -> {size['hq']}:", "", *_table(size)]
        if "agreement" in size:
            values = size["agreement"]
            lines += ["", f"Agreement with diffusers in fp32: pixels {values['pixels_db']:.1f} dB, "]
            lines[-1] += f"latents cosine {values['latents_cosine']:.6f}."
    return "\n".join(lines) + "\n"


def _table(size: dict[str, Any]) -> list[str]:
    head = ["", "precision", "median ms", "p95 ms", "GFLOP", "GFLOP/s", "of peak", "times ours", "peak MiB"]
    memory = size.get("peak_memory_mib", {})
    rows = [head, ["---"] * len(head)]
    for name, values in {**size["whole"], **size.get("parts", {})}.items():
        label = f"**{name}**" if name == OURS else name
        rows.append([label, str(values.get("precision", "")), *_numbers(values), _format(memory.get(name), "{:.0f}")])
    return [f"| {' | '.join(row)} |" for row in rows]


def _numbers(values: dict[str, float]) -> Sequence[str]:
    formats = {"median_ms": "{:.1f}", "p95_ms": "{:.1f}", "gflop": "{:.1f}", "gflops": "{:.0f}"}
    formats |= {"share_of_peak": "{:.0%}", "times_ours": "{:.2f}"}
    return [_format(values.get(key), text) for key, text in formats.items()]


def _format(value: float | None, text: str) -> str:
    return "" if value is None else text.format(value)
