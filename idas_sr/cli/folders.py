"""Restoring a folder on the command line: alone, with other processes or on a cluster, with a report at the end."""

from __future__ import annotations

import argparse
import functools
import json
import logging
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from idas_sr.batch import Job, Settings, restore_files
from idas_sr.engines.cluster import restore_on_ray
from idas_sr.engines.launch import Launch
from idas_sr.engines.manifest import Header, Manifest, open_manifest
from idas_sr.engines.processes import Work, start_workers, work_along
from idas_sr.engines.report import SHOWN, Report, invented_line
from idas_sr.pipeline import IDaSSRPipeline

LOGGER = logging.getLogger("idas_sr")

Plan = Callable[[], Sequence[Job]]
Load = Callable[[], IDaSSRPipeline]


def restore_alone(jobs: Sequence[Job], load: Load, settings: Settings, args: argparse.Namespace, output: Path) -> int:
    """Restore in this process; 1 if a picture failed, else 0."""
    report = Report(args.summary, _described(settings))
    with report, tqdm(total=len(jobs), unit="picture", disable=None) as bar, logging_redirect_tqdm([LOGGER]):
        for outcome in restore_files(jobs, load, settings, args.batch_size, args.resume):
            report.add(outcome.summary())
            bar.update()
            if outcome.status == "failed":
                bar.write(f"failed: {outcome.reason}", file=sys.stderr)
            if outcome.invented is not None:
                bar.write(invented_line(str(outcome.job), outcome.invented))
            for notice in outcome.notices:
                bar.write(f"note: {outcome.job}: {notice}", file=sys.stderr)
    print(f"{report.line()}; results in {output}")
    return 1 if report.counts["failed"] else 0


def restore_together(
    plan: Plan, load: Load, settings: Settings, args: argparse.Namespace, output: Path, launch: Launch
) -> int:
    """Restore with the processes of a launch or with Ray, on one manifest; 1 if a picture failed, else 0.

    Of processes that a launcher started, only the one that concludes reports, by text and by exit code: a launcher ends
    all of them at the first that does not return 0.

    Raises:
        ValueError: all workers ended before the work did.
    """
    begin = time.perf_counter()
    source = str(args.input.absolute()) + ("/**" if args.recursive else "")
    described = _described(settings) | {"realism_map": str(settings.realism_map), "with_map": settings.with_map}
    manifest = open_manifest(output, Header(described, source, launch.name), plan, launch.count)
    if manifest.is_finished:
        return 0
    work = Work(load, settings, args.batch_size, args.resume)
    is_shown = None if launch.rank == 0 else True
    with tqdm(total=manifest.pictures, unit="picture", disable=is_shown) as bar:
        on_progress = functools.partial(_show, bar)
        if args.engine == "ray":
            restore_on_ray(manifest, work, args.processes, args.device != "cpu", on_progress)
        elif launch.is_started:
            work_along(manifest, work, f"process {launch.rank}", launch.rank, launch.count, on_progress)
        else:
            start_workers(manifest, work, launch.count, on_progress)
    code = _conclude(manifest, settings, args, output, begin)
    manifest.leave()
    if not launch.is_started:
        # Nobody of this launch can come late, so nobody needs the mark.
        shutil.rmtree(manifest.folder, ignore_errors=True)
    return code


def _described(settings: Settings) -> dict[str, object]:
    return json.loads(settings.recipe(b"")) | {"input": None}


def _show(bar: tqdm, done: int) -> None:
    bar.update(done - bar.n)


def _conclude(manifest: Manifest, settings: Settings, args: argparse.Namespace, output: Path, begin: float) -> int:
    with manifest.locked():
        if manifest.is_finished:
            return 0
        if not manifest.is_done():
            done = manifest.done_pictures()
            reason = "; ".join(manifest.errors()) or "they were killed, or a library ended them"
            raise ValueError(
                f"All workers ended after {done} of {manifest.pictures} pictures: {reason}. --resume goes on from here."
            )
        with Report(args.summary, _described(settings)) as report:
            for values in manifest.outcomes():
                report.add(values)
        manifest.finish()
    for line in report.inventions:
        print(line)
    for notice in report.notices:
        print(f"note: {notice}", file=sys.stderr)
    for reason in report.failures:
        print(f"failed: {reason}", file=sys.stderr)
    if report.counts["failed"] > SHOWN:
        print(f"failed: {report.counts['failed'] - SHOWN} more; --summary lists all", file=sys.stderr)
    Console(soft_wrap=True).print(report.table(time.perf_counter() - begin))
    print(f"{report.line()}; results in {output}")
    return 1 if report.counts["failed"] else 0
