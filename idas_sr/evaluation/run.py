"""A benchmark from start to table: restore what is missing, score every row, over all processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from idas_sr.batch import Job, Settings, restore_files
from idas_sr.evaluation.benchmark import BenchmarkConfig, Checked, check_set, judge
from idas_sr.evaluation.columns import Chosen, choose_columns, fid
from idas_sr.evaluation.files import versions, write_csv, write_json
from idas_sr.evaluation.published import comparison_table, published_rows
from idas_sr.evaluation.score import PROTOCOL, Pair, PictureScore, Scores, available_cores, collect, score_pairs
from idas_sr.evaluation.trivial import TRIVIAL, write_trivial
from idas_sr.pipeline import IDaSSRPipeline

Progress = Callable[[str, int], None]
"""(what was done, how many): "plan" announces work, "restored", "skipped" and "scored" report it."""


@dataclass(frozen=True)
class Row:
    """One line of a benchmark's table: where its pictures lie, and whether a model made them."""

    name: str
    folder: Path
    realism: float | None = None


@dataclass(frozen=True)
class Report:
    """A measured benchmark: row -> scores, in the order of the table; ``remark`` says what the set is."""

    rows: dict[str, Scores]
    trivial: list[str]
    may_compare: bool
    remark: str
    restored: int

    @property
    def notes(self) -> list[str]:
        """Sentences about all rows."""
        return list(dict.fromkeys([self.remark, *(note for scores in self.rows.values() for note in scores.notes)]))


def rows_of(config: BenchmarkConfig) -> list[Row]:
    """The rows of a benchmark: one per realism, and the three trivial ones."""
    base = config.folder
    rows = [Row(f"{config.model.name}, realism {r:g}", base / f"realism-{r:g}", r) for r in config.levels]
    return rows + [Row(name, base / key) for key, name in TRIVIAL.items() if config.trivial]


def run_benchmark(
    config: BenchmarkConfig,
    state: PartialState,
    load: Callable[[], IDaSSRPipeline],
    settings: Settings,
    on_progress: Progress = lambda what, count: None,
) -> Report | None:
    """Restore and score; every process works on its own pictures, the first one gets the report, the others None.

    What lies in the output folder from an earlier run with the same settings is kept.

    Args:
        load: gives the pipeline; called only where there is something to restore.
        settings: of the restored pictures; its realism is replaced by that of each row.

    Raises:
        ValueError: the set is not as it should be, or a picture could not be restored; every process raises it.
    """
    checked = check_set(config)
    squeezenet = Path(config.squeezenet) if config.squeezenet else None
    chosen = choose_columns(bool(checked.hq), True, squeezenet, config.columns or None, state.device)
    rows, stems = rows_of(config), list(checked.lq)
    mine = stems[state.process_index :: state.num_processes]
    on_progress("plan", len(mine) * len(rows) + len(mine) * len(config.levels))
    restored = _together(state, partial(_restore, config, checked, mine, load, settings, state, on_progress))
    if config.trivial:
        _together(state, partial(_restore_trivially, config, checked, mine))
    jobs = max(1, (config.jobs or available_cores()) // state.num_processes)
    measured: dict[str, Scores] = {}
    for row in rows:
        parts = _together(state, partial(_score, row, checked, mine, chosen, jobs, on_progress))
        if state.is_main_process:
            together = {stem: score for part in parts for stem, score in part.items()}
            measured[row.name] = collect(together, chosen, _whole(row, checked, chosen, state.device))
    state.wait_for_everyone()
    if not state.is_main_process:
        return None
    data = measured[rows[0].name].data
    hashes = {"lq": data["lq"]} | ({"hq": data["reference"]} if "reference" in data else {})
    verdict = judge(config, hashes)
    trivial = [row.name for row in rows if row.realism is None]
    return Report(measured, trivial, verdict.may_compare, verdict.reason, sum(restored))


def _together(state: PartialState, work: Callable[[], Any]) -> list[Any]:
    """``work`` in every process; the results of all. An error of one is an error of all: none waits for a dead one."""
    result, problem = None, None
    try:
        result = work()
    except (ValueError, OSError) as error:
        problem = str(error)
    gathered = [(result, problem)]
    if state.num_processes > 1:
        gathered = gather_object(gathered)
    for _, reason in gathered:
        if reason is not None:
            raise ValueError(reason)
    return [value for value, _ in gathered]


def _restore(
    config: BenchmarkConfig,
    checked: Checked,
    stems: list[str],
    load: Callable[[], IDaSSRPipeline],
    settings: Settings,
    state: PartialState,
    on_progress: Progress,
) -> int:
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads or max(1, available_cores() // state.num_processes))
    done = 0
    try:
        for row in rows_of(config):
            if row.realism is None:
                continue
            jobs = [Job(checked.lq[stem], row.folder / f"{stem}.png") for stem in stems]
            own = replace(settings, realism=row.realism)
            for outcome in restore_files(jobs, load, own, config.model.batch_size, resume=True):
                if outcome.status == "failed":
                    raise ValueError(f"{outcome.job.source} failed: {outcome.reason}")
                done += outcome.status == "restored"
                on_progress(outcome.status, 1)
    finally:
        torch.set_num_threads(threads)
    return done


def _restore_trivially(config: BenchmarkConfig, checked: Checked, stems: list[str]) -> None:
    # The place in the sorted list is the seed of the grain, as in scripts/trivial_baselines.py.
    seeds = {stem: index for index, stem in enumerate(checked.lq)}
    write_trivial({stem: checked.lq[stem] for stem in stems}, seeds, config.folder, config.scale)


def _score(
    row: Row, checked: Checked, stems: list[str], chosen: Chosen, jobs: int, on_progress: Progress
) -> dict[str, PictureScore]:
    pairs = {s: Pair(row.folder / f"{s}.png", checked.hq.get(s), checked.lq[s]) for s in stems}
    return score_pairs(pairs, chosen.measures, jobs, lambda stem: on_progress("scored", 1))


def _whole(row: Row, checked: Checked, chosen: Chosen, device: torch.device) -> dict[str, float]:
    if not chosen.is_fid:
        return {}
    return {"fid": fid(row.folder, next(iter(checked.hq.values())).parent, device)}


def report_table(config: BenchmarkConfig, report: Report) -> str:
    """Our rows, the trivial ones and, where they may stand beside them, the published ones, in Markdown."""
    ours = {name: scores.mean for name, scores in report.rows.items() if name not in report.trivial}
    trivial = {name: report.rows[name].mean for name in report.trivial}
    published = published_rows(config.published) if report.may_compare and config.published else []
    return comparison_table(ours, published, trivial)


def report_json(
    config: BenchmarkConfig, report: Report, settings: Mapping[str, Any], command: list[str]
) -> dict[str, Any]:
    """JSON values: one entry per row with mean, images and data, and what is common to all."""
    first = next(iter(report.rows.values()))
    return {
        "protocol": PROTOCOL,
        "benchmark": config.name,
        "rows": {
            name: {"mean": scores.mean, "images": scores.images, "data": scores.data}
            for name, scores in report.rows.items()
        },
        "notes": report.notes,
        "settings": {"precision of metrics": "fp32, no autocast, TF32 off", **settings},
        "versions": versions(),
        "weights": first.weights,
        "command": command,
    }


def write_report(config: BenchmarkConfig, report: Report, settings: Mapping[str, Any], command: list[str]) -> Path:
    """Write report.json, report.csv and table.md into the output folder; returns the JSON's path.

    Raises:
        OSError: the folder cannot be written to.
    """
    path = config.folder / "report.json"
    write_json(path, json.loads(json.dumps(report_json(config, report, settings, command))))
    columns = list(dict.fromkeys(name for scores in report.rows.values() for name in scores.mean))
    lines = [
        [name, stem, *(values.get(column) for column in columns)]
        for name, scores in report.rows.items()
        for stem, values in (*scores.images.items(), ("mean", scores.mean))
    ]
    write_csv(path.with_suffix(".csv"), ["row", "stem", *columns], lines)
    (config.folder / "table.md").write_text(report_table(config, report), encoding="utf-8")
    return path
