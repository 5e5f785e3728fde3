"""Blind comparison: what is asked, what the page gives away, and what votes are worth."""

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image

from idas_sr.cli import main
from idas_sr.comparison.page import arrange, write_page
from idas_sr.comparison.scores import WIDTH, count, fit, pooled
from idas_sr.comparison.votes import FORMAT, Vote, read_ballots, seal, unseal


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three results of four photographs, of which one is the same in two of them."""
    folder = tmp_path_factory.mktemp("results")
    photographs = {name: getattr(skimage.data, name)()[40:104, 40:136] for name in ("astronaut", "chelsea", "coffee")}
    photographs["rocket"] = skimage.data.rocket()[100:164, 200:296]
    for method, change in {"faithful": 0, "detailed": 12, "smooth": -12}.items():
        (folder / method).mkdir()
        for stem, pixels in photographs.items():
            own = 0 if stem == "rocket" and method == "detailed" else change
            changed = (pixels.astype(int) + own).clip(0, 255).astype(np.uint8)
            Image.fromarray(changed).save(folder / method / f"{stem}.png")
    for name, side in (("hq", 96), ("lq", 24)):
        (folder / name).mkdir()
        for stem, pixels in photographs.items():
            Image.fromarray(pixels).resize((side, side * 2 // 3)).save(folder / name / f"{stem}.png")
    return folder


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.S)
    assert found is not None
    return json.loads(found[1])


def votes_file(path: Path, votes: list[Vote], **other: Any) -> Path:
    names = sorted({name for vote in votes for name in (vote.left, vote.right)})
    cells = [
        {"picture": v.picture, "left": names.index(v.left), "right": names.index(v.right), "choice": v.choice}
        for v in votes
    ]
    content = {"format": FORMAT, "page": "p", "question": "?", "rater": "anna", "sealed": seal(names), "votes": cells}
    path.write_text(json.dumps({**content, **other}), encoding="utf-8")
    return path


def many(numbers: dict[tuple[str, str, str], int]) -> list[Vote]:
    return [Vote(f"{i}", left, right, choice) for (left, right, choice), n in numbers.items() for i in range(n)]


# ---- scores ----


@pytest.mark.parametrize(("wins", "losses", "ties"), [(12, 5, 0), (12, 5, 9), (7, 0, 0), (0, 0, 4), (3, 3, 1)])
def test_two_methods_have_the_corrected_log_odds(wins: int, losses: int, ties: int) -> None:
    # Agresti, Categorical Data Analysis: log((a + 1/2) / (b + 1/2)), variance 1 / (a + 1/2) + 1 / (b + 1/2); ties,
    # which say nothing of which is better, change neither.
    votes = many({("a", "b", "left"): wins, ("b", "a", "left"): losses, ("a", "b", "tie"): ties})
    scores = fit(count(votes))
    difference = math.log((wins + 0.5) / (losses + 0.5))
    error = math.sqrt(1 / (wins + 0.5) + 1 / (losses + 0.5))
    own = {score.name: score for score in scores.methods}
    assert own["a"].score == pytest.approx(difference / 2, abs=1e-8)
    assert own["b"].score == pytest.approx(-difference / 2, abs=1e-8)
    assert own["a"].high - own["a"].low == pytest.approx(WIDTH * error, abs=1e-7)
    (pair,) = scores.pairs
    assert pair.odds == pytest.approx(math.exp(abs(difference)), rel=1e-7)
    assert pair.low == pytest.approx(math.exp(abs(difference) - WIDTH * error), rel=1e-6)
    assert (own["a"].wins, own["a"].ties, own["a"].losses) == (wins, ties, losses)


def test_choices_drawn_from_known_scores_give_them_back() -> None:
    truth, tie = {"a": 0.9, "b": 0.1, "c": -1.0}, 0.3
    rng = np.random.default_rng(0)
    votes = []
    for number in range(6000):
        left, right = rng.choice(list(truth), 2, replace=False)
        half = (truth[left] - truth[right]) / 2
        weights = np.exp([half, -half, tie])
        votes.append(
            Vote(str(number), left, right, str(rng.choice(["left", "right", "tie"], p=weights / weights.sum())))
        )
    scores = fit(count(votes))
    assert [score.name for score in scores.methods] == ["a", "b", "c"]
    for score in scores.methods:
        assert score.low < truth[score.name] < score.high and score.high - score.low < 0.2
    assert sum(score.score for score in scores.methods) == pytest.approx(0, abs=1e-9)
    assert all(pair.is_clear for pair in scores.pairs)


def test_methods_that_never_met_are_compared_through_others() -> None:
    chain = {("a", "b", "left"): 6, ("b", "a", "left"): 2, ("b", "c", "left"): 6, ("c", "b", "left"): 2}
    scores = fit(count(many(chain)))
    assert [score.name for score in scores.methods] == ["a", "b", "c"] and len(scores.pairs) == 2
    assert scores.methods[0].score - scores.methods[2].score == pytest.approx(2 * math.log(6.5 / 2.5), abs=1e-6)
    apart = many({("a", "b", "left"): 3, ("c", "d", "left"): 3})
    with pytest.raises(ValueError, match="a and c were never compared"):
        fit(count(apart))
    with pytest.raises(ValueError, match="Nothing was judged"):
        fit(count(many({("a", "b", "skip"): 3})))


def test_people_who_agree_about_each_picture_are_no_more_votes() -> None:
    rng = np.random.default_rng(1)
    one = [Vote(str(i), "a", "b", "left" if rng.random() < 0.65 else "right") for i in range(40)]
    alone, crowd = pooled([one]), pooled([one] * 9)
    # Nine people who say the same of every picture know no more of other pictures than one.
    width = {key: found.methods[0].high - found.methods[0].low for key, found in (("one", alone), ("nine", crowd))}
    assert width["nine"] == pytest.approx(width["one"], rel=0.05)
    independent = fit(count([vote for _ in range(9) for vote in one])).methods[0]
    assert independent.high - independent.low == pytest.approx(width["one"] / 3, rel=0.05)
    assert crowd.methods[0].score == pytest.approx(independent.score)
    # Of people who do not agree, each vote counts: the interval is that of so many votes.
    split = [[Vote(str(i), "a", "b", "left" if rng.random() < 0.65 else "right") for i in range(40)] for _ in range(9)]
    mixed = pooled(split).methods[0]
    assert mixed.high - mixed.low == pytest.approx(width["one"] / 3, rel=0.3)


def test_a_side_that_is_always_chosen_moves_no_score() -> None:
    votes = many({("a", "b", "left"): 8, ("b", "a", "left"): 8})
    assert all(abs(score.score) < 1e-9 for score in fit(count(votes)).methods)


# ---- what is asked ----


def test_order_and_sides_follow_the_seed_and_are_even() -> None:
    stems = [f"{i:02d}" for i in range(20)]
    choices = {(0, 1): stems, (0, 2): stems, (1, 2): stems}
    asked = arrange(choices, 3)
    assert asked == arrange(choices, 3) != arrange(choices, 4)
    assert len(asked) == len(set(asked)) == 60
    sides = Counter((one.left, one.right) for one in asked)
    assert set(sides.values()) == {10} and len(sides) == 6
    assert [one.picture for one in asked] != sorted(one.picture for one in asked)
    some = arrange(choices, 3, limit=9)
    assert Counter(frozenset((one.left, one.right)) for one in some).most_common()[-1][1] == 3


def test_the_page_says_nothing_of_whose_pictures_they_are(results: Path, tmp_path: Path) -> None:
    names = {name: results / name for name in ("faithful", "detailed", "smooth")}
    written = write_page(names, tmp_path / "page.html", results / "lq", results / "hq", seed=5)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not any(name in text for name in names) and str(results) not in text
    assert not re.search(r"""(?:src|href)=["']?https?:""", text)
    data = data_of(tmp_path / "page.html")
    assert sorted(unseal(data["sealed"])) == sorted(names)
    # The same picture in two results is no question.
    assert written.comparisons == len(data["comparisons"]) == 11
    assert written.equal == (("rocket", "detailed", "faithful"),)
    assert [key for key, _ in data["beside"]] == ["reference", "lq"]
    assert (tmp_path / "page.html").stat().st_size == written.bytes[0] and written.bytes[1] == 0
    again = write_page(names, tmp_path / "again.html", results / "lq", results / "hq", seed=5)
    assert again.path.read_bytes() == written.path.read_bytes()
    other = write_page(names, tmp_path / "other.html", results / "lq", results / "hq", seed=6)
    assert data_of(other.path)["page"] != data["page"]


def test_pictures_beside_the_page_keep_the_secret(results: Path, tmp_path: Path) -> None:
    names = {name: results / name for name in ("faithful", "smooth")}
    written = write_page(names, tmp_path / "page.html", embed=False)
    files = sorted((tmp_path / "page_pictures").iterdir())
    assert len(files) == 8 and all(re.fullmatch(r"[0-9a-f]{16}\.png", path.name) for path in files)
    assert written.bytes[1] == sum(path.stat().st_size for path in files)
    sources = data_of(tmp_path / "page.html")["sources"]
    assert {tmp_path / source for source in sources.values()} == set(files)
    # What somebody else keeps under that name is not touched.
    (tmp_path / "page_pictures" / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(ValueError, match="is there already and not of a comparison page"):
        write_page(names, tmp_path / "page.html", embed=False)
    assert (tmp_path / "page_pictures" / "holiday.jpg").read_bytes() == b"mine"


def test_what_a_browser_cannot_show_becomes_png_and_text_stays_text(results: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    Image.open(results / "smooth" / "coffee.png").save(tmp_path / "a" / "x</script>.tiff".replace("/", "_"))
    Image.open(results / "detailed" / "coffee.png").save(tmp_path / "b" / "x<_script>.jpg", quality=90)
    write_page({n: tmp_path / n for n in ("a", "b")}, tmp_path / "p.html", question="<b>&</b></script>?")
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    data = data_of(tmp_path / "p.html")
    assert {source.split(";")[0] for source in data["sources"].values()} == {"data:image/png", "data:image/jpeg"}
    assert data["question"] == "<b>&</b></script>?" and "<b>&" not in text
    assert '<h1 id="question">&lt;b&gt;' in text


# ---- the command ----


def test_command_writes_a_page_and_scores_votes(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(results / name) for name in ("faithful", "smooth")]
    assert main(["compare", *folders, "-o", str(tmp_path / "page.html"), "--limit", "3"]) == 0
    assert "3 questions" in capsys.readouterr().out
    one = votes_file(tmp_path / "one.json", many({("a", "b", "left"): 4, ("a", "b", "tie"): 2}))
    two = votes_file(tmp_path / "two.json", many({("b", "a", "right"): 3, ("b", "a", "skip"): 1}), rater="ben")
    assert main(["compare", "--votes", str(one), str(two), "--json", str(tmp_path / "scores.json")]) == 0
    out = capsys.readouterr().out
    assert "anna (6), ben (4); 1 skipped" in out
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["raters"] == ["anna", "ben"] and scores["pairs"][0]["odds"] == pytest.approx(15)
    assert scores["methods"][0]["name"] == "a" and scores["methods"][0]["wins"] == 7
    ballots = read_ballots([one, two])
    assert scores["methods"][0]["score"] == pooled([b.votes for b in ballots]).methods[0].score


BAD_VOTES = {
    "no JSON": ("{", "is no JSON"),
    "another file": ('{"a": 1}', "does not hold the votes of a comparison page"),
    "another choice": ("choice", "choice must be one of"),
    "a method that is not there": ("place", "does not say whose pictures"),
    "opened names": ("sealed", "does not say whose pictures"),
}


@pytest.mark.parametrize("what", BAD_VOTES)
def test_bad_votes_are_one_sentence(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, words = BAD_VOTES[what]
    path = votes_file(tmp_path / "v.json", many({("a", "b", "left"): 2}))
    content = json.loads(path.read_text())
    if text == "choice":
        content["votes"][1]["choice"] = "both"
    elif text == "place":
        content["votes"][1]["right"] = 7
    elif text == "sealed":
        content["sealed"] = "faithful"
    path.write_text(text if text.startswith("{") else json.dumps(content))
    assert main(["compare", "--votes", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and "v.json" in line


def test_mistakes_are_one_sentence(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = str(results / "faithful"), str(results / "smooth")
    (tmp_path / "faithful").mkdir()
    Image.new("RGB", (96, 60)).save(tmp_path / "faithful" / "coffee.png")
    votes = str(votes_file(tmp_path / "v.json", many({("a", "b", "left"): 2})))
    other = str(votes_file(tmp_path / "w.json", many({("a", "b", "left"): 3}), question="Which is sharper?"))
    cases = {
        (a,): "two results or more",
        (a, a): "called faithful",
        (a, b, "--names", "x"): "1 names for 2 folders",
        (a, str(tmp_path / "faithful"), "--names", "x", "y"): "pictures that are compared have one size",
        (a, str(results / "nowhere")): "is not a folder",
        (a, b, "--lq", str(tmp_path / "faithful")): "is not in",
        (a, a, "--names", "x", "y"): "nothing to choose",
        ("--votes", votes, votes): "hold the same votes",
        ("--votes", votes, other): "one after the other",
        (a, "--votes", votes): "not both",
    }
    for words, expected in cases.items():
        assert main(["compare", *words, "-o", str(tmp_path / "none.html")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert expected in line, line
    assert not (tmp_path / "none.html").exists()
