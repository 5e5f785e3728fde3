"""``idas-sr compare``: a page on which people compare results blindly, and what their votes say."""

from __future__ import annotations

import argparse
from pathlib import Path

from idas_sr.cli.arguments import count_value
from idas_sr.comparison.page import QUESTION, Written, write_page
from idas_sr.comparison.scores import Scores, pooled
from idas_sr.comparison.votes import Ballot, read_ballots
from idas_sr.evaluation.files import write_json

EXAMPLES = """examples:
  %(prog)s out/mine out/theirs -o page.html                a page to open in a browser, or to send
  %(prog)s out/a out/b out/c --reference HQ --limit 60     three results, 60 questions, with the true picture beside
  %(prog)s --votes anna.json ben.json                      scores from the files that people saved on the page
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``compare``."""
    parser.description = (
        "Write one HTML page on which people choose between results without knowing whose they are, or score their "
        "votes. Pictures are paired by stem. The page works without a network and keeps its votes in the browser."
    )
    parser.epilog = EXAMPLES
    parser.add_argument(
        "results", nargs="*", type=Path, metavar="FOLDER", help="restored pictures, two folders or more"
    )
    page = parser.add_argument_group("page")
    page.add_argument("-o", "--output", type=Path, default=Path("compare.html"), help="default: %(default)s")
    page.add_argument("--names", nargs="+", metavar="NAME", help="of the results (default: their folders' names)")
    page.add_argument("--reference", "--hq", type=Path, metavar="HQ", help="folder of true pictures, shown beside")
    page.add_argument("--lq", type=Path, metavar="LQ", help="folder of the inputs, shown beside")
    page.add_argument("--question", default=QUESTION, metavar="TEXT", help="default: %(default)s")
    page.add_argument("--seed", type=int, default=0, help="decides order and sides (default: %(default)s)")
    page.add_argument("--limit", type=count_value, metavar="N", help="ask at most N questions (default: all)")
    page.add_argument(
        "--embed",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="put the pictures into the page, or into a folder beside it (default: into it up to 64 MiB)",
    )
    votes = parser.add_argument_group("votes")
    votes.add_argument("--votes", nargs="+", type=Path, metavar="FILE", help="score these files instead")
    votes.add_argument("--json", type=Path, metavar="PATH", help="write the scores there")


def run(args: argparse.Namespace) -> int:
    """Write a page or print scores.

    Raises:
        ValueError, OSError: what the page or the votes refuse.
    """
    if args.votes and args.results:
        raise ValueError("Give folders for a page or --votes for scores, not both.")
    if args.votes:
        ballots = read_ballots(args.votes)
        scores = pooled([ballot.votes for ballot in ballots])
        print(report(ballots, scores))
        if args.json:
            write_json(args.json, {"raters": [ballot.rater for ballot in ballots], **scores.as_json()})
        return 0
    names = args.names or [folder.resolve().name for folder in args.results]
    if len(names) != len(args.results):
        raise ValueError(f"--names gives {len(names)} names for {len(args.results)} folders.")
    if len(set(names)) < len(names):
        raise ValueError(f"Two of the results are called {max(names, key=names.count)}; tell them apart with --names.")
    folders = dict(zip(names, args.results, strict=True))
    print(
        summary(
            write_page(folders, args.output, args.lq, args.reference, args.seed, args.limit, args.question, args.embed)
        )
    )
    return 0


def summary(written: Written) -> str:
    """What was written, for people."""
    page, beside = written.bytes
    folder = written.path.with_name(f"{written.path.stem}_pictures")
    lines = [f"{written.path}: {written.comparisons} questions, {page / 2**20:.1f} MiB"]
    lines[0] += f", with {folder.name}/ beside it ({beside / 2**20:.1f} MiB)" if beside else ", complete in itself"
    if written.unpaired:
        lines.append(
            f"{len(written.unpaired)} picture(s) left out that not every folder has: {written.unpaired[0]} ..."
        )
    if written.equal:
        stem, one, other = written.equal[0]
        lines.append(f"{len(written.equal)} question(s) left out where both are equal: {stem} of {one} and {other} ...")
    return "\n".join(lines)


def report(ballots: list[Ballot], scores: Scores) -> str:
    """Scores as a table."""
    people = ", ".join(f"{ballot.rater or ballot.path.name} ({len(ballot.votes)})" for ballot in ballots)
    lines = [["", "score", "95 % interval", "wins", "ties", "losses"]]
    for s in scores.methods:
        lines.append(
            [s.name, f"{s.score:+.3f}", f"{s.low:+.3f} to {s.high:+.3f}", str(s.wins), str(s.ties), str(s.losses)]
        )
    pairs = [["", "odds", "95 % interval", "wins", "ties", "losses", "clear"]]
    for p in scores.pairs:
        cells = [f"{p.better} over {p.worse}", f"{p.odds:.2f}", f"{p.low:.2f} to {p.high:.2f}"]
        pairs.append([*cells, str(p.wins), str(p.ties), str(p.losses), "yes" if p.is_clear else "no"])
    return "\n".join(
        [
            f"{ballots[0].question} Votes: {people}; {scores.skipped} skipped",
            "",
            *_aligned(lines),
            "",
            *_aligned(pairs),
            "",
            "score: Bradley-Terry with ties (Davidson 1970), log odds with mean 0; clear: even odds lie outside",
        ]
    )


def _aligned(lines: list[list[str]]) -> list[str]:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
