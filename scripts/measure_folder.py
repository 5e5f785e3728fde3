#!/usr/bin/env python3
"""Restore a folder of small pictures with several processes, kill one on the way, and measure what docs/scale.md says.

    python scripts/measure_folder.py --pictures 2000 --side 32 --processes 2 --kill --json local.json
    python scripts/measure_folder.py --pictures 2000 --side 32 --processes 2 --kill --engine ray --json ray.json
    python scripts/measure_folder.py --pictures 200 --side 128 --parts

The same folder is restored by one process first, and every output compared. What is watched: that no output is written
twice, that none is missing, how memory of each process grows, pictures per second; with --parts also how long reading,
restoring and writing one picture take. Exit code 1 where something is missing, twice or different.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from idas_sr.cli import choose_device
from idas_sr.engines.manifest import FOLDER
from idas_sr.imagefiles.formats import Encoding
from idas_sr.imagefiles.reading import read_picture
from idas_sr.imagefiles.writing import save_picture
from idas_sr.pipeline import IDaSSRPipeline

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
WATCH = 0.1
"""Seconds between two looks at the outputs."""

WARM = 0.25
"""Share of the outputs after which memory counts as that of a process at work; caches fill before."""


@dataclass
class Watched:
    """What a run looked like from outside.

    Attributes:
        seconds: from the start of the command to its end.
        written_twice: outputs that were replaced after they were complete.
        memory: MiB per process, as (at WARM of the outputs, highest after it).
        killed: process that was killed.
    """

    code: int = 0
    seconds: float = 0.0
    written_twice: list[str] = field(default_factory=list)
    memory: dict[int, tuple[float, float]] = field(default_factory=dict)
    killed: int | None = None
    output: str = ""

    @property
    def growth(self) -> float:
        """MiB by which the process grew that grew most."""
        return max((highest - first for first, highest in self.memory.values()), default=0.0)


def make_pictures(folder: Path, count: int, side: int) -> None:
    """``count`` different crops of the example photographs, ``side`` pixels wide and high."""
    folder.mkdir(parents=True)
    photographs = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(EXAMPLES.glob("*.png"))]
    large = [p for p in photographs if min(p.shape[:2]) >= side]
    if not large:
        raise SystemExit(f"The example photographs are smaller than --side {side}.")
    random = np.random.default_rng(0)
    for number in range(count):
        photograph = large[number % len(large)]
        top, left = (int(random.integers(0, length - side + 1)) for length in photograph.shape[:2])
        crop = photograph[top : top + side, left : left + side]
        Image.fromarray(crop).save(folder / f"{number:06d}.png")


def command(source: Path, output: Path, model: str, options: Sequence[object]) -> list[str]:
    """``scripts/infer.py`` as a command."""
    script = Path(__file__).with_name("infer.py")
    return [sys.executable, str(script), "-i", str(source), "-o", str(output), "--model", model, *map(str, options)]


def owners(output: Path) -> list[int]:
    """Processes that have claimed a part now."""
    folder = output / FOLDER / "claimed"
    try:
        # NAME-PROCESS-UNIQUE
        return [int(worker.name.split("-")[-2]) for worker in sorted(folder.iterdir()) if any(worker.iterdir())]
    except FileNotFoundError:
        return []


def watch(words: Sequence[str], output: Path, count: int, kill_at: float | None) -> Watched:
    """Run a command and watch its output folder; kill one worker when the share ``kill_at`` of ``count`` is there."""
    watched, begin = Watched(), time.perf_counter()
    seen: dict[str, tuple[int, int]] = {}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(words, stdout=said, stderr=subprocess.STDOUT)
        while process.poll() is None:
            _look(output, seen, watched)
            if len(seen) >= WARM * count:
                _weigh(owners(output), watched)
            if kill_at is not None and watched.killed is None and len(seen) >= kill_at * count:
                # One that has a claim: the next look may find it between two.
                for victim in owners(output)[:1]:
                    os.kill(victim, signal.SIGKILL)
                    watched.killed = victim
            time.sleep(WATCH)
        _look(output, seen, watched)
        watched.code, watched.seconds = process.returncode, time.perf_counter() - begin
        said.seek(0)
        watched.output = said.read()
    return watched


def _look(output: Path, seen: dict[str, tuple[int, int]], watched: Watched) -> None:
    """Note outputs by the identity of their files: one that is replaced gets another."""
    if not output.is_dir():
        return
    for entry in os.scandir(output):
        if entry.name.startswith(".") or not entry.is_file():
            continue
        status = entry.stat()
        identity = (status.st_ino, status.st_mtime_ns)
        if seen.setdefault(entry.name, identity) != identity:
            seen[entry.name] = identity
            watched.written_twice.append(entry.name)


def _weigh(processes: Sequence[int], watched: Watched) -> None:
    for number in processes:
        try:
            now = psutil.Process(number).memory_info().rss / 2**20
        except psutil.NoSuchProcess:
            continue
        first, highest = watched.memory.get(number, (now, now))
        watched.memory[number] = (first, max(highest, now))


def compare(one: Path, other: Path) -> tuple[int, float, list[str]]:
    """Largest difference in levels, share of differing values, and names that are in one folder only."""
    names = [{path.name for path in folder.glob("*.png")} for folder in (one, other)]
    largest = differing = values = 0
    for name in sorted(names[0] & names[1]):
        first, second = (np.asarray(Image.open(folder / name)).astype(np.int16) for folder in (one, other))
        difference = np.abs(first - second)
        largest = max(largest, int(difference.max()))
        differing += int(np.count_nonzero(difference))
        values += difference.size
    return largest, differing / max(1, values), sorted(names[0] ^ names[1])


def time_parts(source: Path, model: str, device: str, count: int = 20) -> dict[str, float]:
    """Median milliseconds of reading, restoring and writing one picture, each alone in one process."""
    pipeline = IDaSSRPipeline.from_pretrained(model).to(choose_device(device))
    pipeline.set_progress_bar_config(disable=True)
    files = sorted(source.glob("*.png"))[: count + 1]
    pictures = [read_picture(file) for file in files]
    restored = [torch.as_tensor(pipeline(p.colour, output_type="pt").images[0]) for p in pictures]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "picture.png"
        steps: dict[str, Callable[[int], object]] = {
            "read": lambda i: read_picture(files[i]),
            "restore": lambda i: pipeline(pictures[i].colour, output_type="pt"),
            "write": lambda i: save_picture(restored[i], pictures[i], target, Encoding(), "{}"),
        }
        return {name: 1000 * statistics.median(_seconds(step, len(files))) for name, step in steps.items()}


def _seconds(step: Callable[[int], object], count: int) -> list[float]:
    taken = []
    for i in range(count):
        begin = time.perf_counter()
        step(i)
        taken.append(time.perf_counter() - begin)
    return taken[1:]


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All that was asked for, as JSON values."""
    source, alone, shared = folder / "in", folder / "alone", folder / "shared"
    make_pictures(source, args.pictures, args.side)
    common: list[object] = ["--device", args.device]
    if args.batch_size is not None:
        common += ["--batch-size", args.batch_size]
    first = watch(command(source, alone, args.model, common), alone, args.pictures, None)
    options = [*common, "--processes", args.processes, "--engine", args.engine, "--summary", folder / "summary.json"]
    second = watch(command(source, shared, args.model, options), shared, args.pictures, 0.3 if args.kill else None)
    if not (folder / "summary.json").is_file():
        raise SystemExit(f"The run ended with code {second.code}:\n{second.output}")
    totals = json.loads((folder / "summary.json").read_text())["totals"]
    largest, differing, missing = compare(alone, shared)
    rates = {name: args.pictures / run.seconds for name, run in (("alone", first), ("shared", second))}
    values: dict[str, Any] = {
        "pictures": args.pictures,
        "side": args.side,
        "engine": args.engine,
        "processes": args.processes,
        "batch_size": args.batch_size,
        "codes": [first.code, second.code],
        "killed": second.killed is not None,
        "totals": totals,
        "missing": missing,
        "written_twice": second.written_twice,
        "largest_difference": largest,
        "share_differing": differing,
        "growth_mib": round(second.growth, 1),
        "memory_mib": round(max((highest for _, highest in second.memory.values()), default=0.0), 1),
        "pictures_per_second": rates,
        "hours_per_million": {name: 1e6 / rate / 3600 for name, rate in rates.items()},
        "environment": {"cores": len(psutil.Process().cpu_affinity()), "torch": torch.__version__}
        | {"machine": platform.machine(), "threads": os.environ.get("OMP_NUM_THREADS", "all")},
        "run": asdict(second) | {"output": second.output[-2000:]},
    }
    if args.parts:
        values["milliseconds"] = time_parts(source, args.model, args.device)
    return values


def as_markdown(values: dict[str, Any]) -> str:
    """The rows that docs/scale.md shows, and what a million such pictures cost."""
    rates, killed = values["pictures_per_second"], " (one killed)" if values["killed"] else ""
    columns = ["engine", "processes", "pictures/s", "hours per million", "MiB per process", "growth MiB"]
    rows = [["alone", 1, rates["alone"], values["hours_per_million"]["alone"], "", ""]]
    rows += [
        [
            values["engine"] + killed,
            values["processes"],
            rates["shared"],
            values["hours_per_million"]["shared"],
            values["memory_mib"],
            values["growth_mib"],
        ]
    ]
    cells = [[f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in [columns, ["---"] * len(columns), *cells]]
    if "milliseconds" in values:
        parts = values["milliseconds"]
        lines += ["", *(f"{name} {value:.1f} ms" for name, value in parts.items())]
        lines += [f"one core that writes keeps up with one worker down to {parts['write']:.1f} ms per picture"]
        lines += [f"a million: {sum(parts.values()) * 1e6 / 3.6e6:.0f} hours of one process without overlap"]
    return "\n".join(lines)


def is_right(values: dict[str, Any]) -> bool:
    """Nothing missing, nothing twice, outputs equal but for at most one level in at most 1e-4 of the values."""
    equal = values["largest_difference"] <= 1 and values["share_differing"] <= 1e-4
    return equal and not values["missing"] and not values["written_twice"] and values["codes"] == [0, 0]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--side", type=int, default=32, help="pixels (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--model", default="compact")
    parser.add_argument("--batch-size", type=int, help="as for infer (default: infer's)")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--kill", action="store_true", help="kill one worker when 30 %% of the outputs are there")
    parser.add_argument("--parts", action="store_true", help="time reading, restoring and writing of one picture, too")
    parser.add_argument("--folder", type=Path, help="work there and keep it (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="write everything there")
    args = parser.parse_args(arguments)
    folder = args.folder or Path(tempfile.mkdtemp(prefix="measure_folder"))
    try:
        values = measure(args, folder)
    finally:
        if args.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({name: value for name, value in values.items() if name != "run"}, indent=1))
    print(as_markdown(values))
    if args.json:
        args.json.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    return 0 if is_right(values) else 1


if __name__ == "__main__":
    sys.exit(main())
