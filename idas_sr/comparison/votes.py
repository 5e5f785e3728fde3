"""What a person chose on a comparison page, as a JSON file that keeps the names of the methods out of sight."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idas_sr.evaluation.schema import read_checked

FORMAT = "idas-sr votes 1"
SCHEMA = Path(__file__).with_name("votes.schema.json")


@dataclass(frozen=True)
class Vote:
    """One judgement: ``choice`` is left, right, tie or skip; ``left`` and ``right`` name methods."""

    picture: str
    left: str
    right: str
    choice: str


@dataclass(frozen=True)
class Ballot:
    """The votes of one person on one page."""

    path: Path
    page: str
    rater: str
    question: str
    votes: tuple[Vote, ...]


def seal(names: Sequence[str]) -> str:
    """Names as text in which nobody reads them by accident; anybody who wants to can open it."""
    return base64.b64encode(json.dumps(list(names)).encode()).decode()


def unseal(text: str) -> list[str]:
    """What `seal` closed.

    Raises:
        ValueError: it is no list of names.
    """
    names = json.loads(base64.b64decode(text, validate=True))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("not a list of names")
    return names


def read_ballot(path: Path) -> Ballot:
    """The votes in a file that a comparison page exported.

    Raises:
        ValueError: it is no such file, or a vote names a method that there is not.
        OSError: it cannot be read.
    """
    content: dict[str, Any] = read_checked(path, SCHEMA, "the votes of a comparison page")
    try:
        names = unseal(content["sealed"])
        votes = tuple(
            Vote(vote["picture"], names[vote["left"]], names[vote["right"]], vote["choice"])
            for vote in content["votes"]
        )
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path} does not say whose pictures were compared; export the votes again.") from error
    if any(vote.left == vote.right for vote in votes):
        raise ValueError(f"{path} compares a method with itself; export the votes again.")
    return Ballot(path, content["page"], content["rater"], content["question"], votes)


def read_ballots(paths: Sequence[Path]) -> list[Ballot]:
    """The votes of several people.

    Raises:
        ValueError: what `read_ballot` refuses; the same votes twice; answers to different questions.
        OSError: a file cannot be read.
    """
    ballots = [read_ballot(path) for path in paths]
    for index, ballot in enumerate(ballots):
        for other in ballots[:index]:
            if (ballot.page, ballot.rater, ballot.votes) == (other.page, other.rater, other.votes):
                raise ValueError(f"{other.path} and {ballot.path} hold the same votes; give each person's once.")
            if ballot.question != other.question:
                raise ValueError(
                    f"{other.path} answers {other.question!r} and {ballot.path} {ballot.question!r}; "
                    "score them one after the other."
                )
    return ballots
