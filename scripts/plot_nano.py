#!/usr/bin/env python3
"""The curve that nano_idas.py writes beside its model, as a table on the screen and as a plot.

python scripts/plot_nano.py nano.jsonl --plot docs/images/nano.png
"""

import argparse
import json
import sys
from pathlib import Path

from idas_sr.evaluation import plots

PSNR = ("bicubic", "realism 0", "realism 0.5", "realism 1")


def read(path: Path) -> list[dict[str, float]]:
    """Rows of the stage that restores.

    Raises:
        ValueError: the file has none.
    """
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if "bicubic" in row]
    if not rows:
        raise ValueError(f"{path} has no row of the last stage yet; let the training go on.")
    return rows


def table(rows: list[dict[str, float]]) -> str:
    """In Markdown, PSNR-Y in dB."""
    lines = ["| step | CPU minutes | loss | " + " | ".join(PSNR) + " |", "|---|---|---|" + "---|" * len(PSNR)]
    for row in rows:
        figures = " | ".join(f"{row[name]:.2f}" for name in PSNR)
        lines.append(f"| {row['step']} | {row['cpu_minutes']:.1f} | {row['loss']:.3f} | {figures} |")
    return "\n".join(lines)


def plot(rows: list[dict[str, float]], path: Path) -> None:
    figure, (ax,) = plots.new_figure(1, 1, width=5.6, height=3.4)
    minutes = [row["cpu_minutes"] for row in rows]
    ax.axhline(rows[0]["bicubic"], color="#888888", linestyle="--", linewidth=1.2, label="bicubic")
    for index, name in enumerate(PSNR[1:]):
        ax.plot(minutes, [row[name] for row in rows], label=name, linewidth=1.5, **plots.style_of(index))
    ax.set_xlabel("minutes of one CPU core", fontsize=9)
    ax.set_ylabel("psnr_y on held-out photographs, dB", fontsize=9)
    ax.legend(frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, facecolor="white")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("curve", type=Path, help="file that nano_idas.py has written")
    parser.add_argument("--plot", type=Path, help="PNG file to draw")
    args = parser.parse_args(arguments)
    try:
        rows = read(args.curve)
        if args.plot:
            plots.check()
            plot(rows, args.plot)
    except (ValueError, OSError) as error:
        print(f"plot_nano: {error}", file=sys.stderr)
        return 2
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
