"""Files of results: ours fit the schema that others send theirs by, and what is wrong with one is said."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import skimage.data
from PIL import Image

from idas_sr.cli import main
from idas_sr.evaluation.columns import COLUMNS
from idas_sr.evaluation.published import published_benchmarks
from idas_sr.evaluation.results import SCHEMA, read_result, rows_in
from idas_sr.evaluation.schema import complaint
from idas_sr.evaluation.score import PROTOCOL


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``evaluate score`` writes of two real photographs."""
    folder = tmp_path_factory.mktemp("scored")
    for name in ("chelsea", "coffee"):
        hq = Image.fromarray(getattr(skimage.data, name)()[:96, :128])
        for side, picture in (("hq", hq), ("sr", hq.resize((32, 24)).resize(hq.size))):
            (folder / side).mkdir(exist_ok=True)
            picture.save(folder / side / f"{name}.png")
    words = ["--reference", str(folder / "hq"), "--columns", "psnr_y", "ssim_y", "--jobs", "1"]
    assert main(["evaluate", "score", str(folder / "sr"), *words, "--json", str(folder / "mine.json")]) == 0
    return folder / "mine.json"


def table_of(result: dict[str, Any], **rows: dict[str, Any]) -> dict[str, Any]:
    """The same as one row of a benchmark's report, beside others."""
    row = {key: result[key] for key in ("mean", "images", "data")}
    common = {key: value for key, value in result.items() if key not in row}
    return {**common, "benchmark": "two", "rows": {"mine": row, **{name: {**row, **own} for name, own in rows.items()}}}


def test_the_schema_knows_the_columns_of_the_protocol() -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    (pattern,) = schema["definitions"]["metrics"]["patternProperties"]
    assert sorted(pattern.strip("^()$").split("|")) == sorted(COLUMNS)
    assert schema["properties"]["protocol"]["const"] == PROTOCOL
    assert published_benchmarks(), "rows of papers are no results and have files of their own"


def test_what_evaluate_writes_is_accepted_and_shown(scored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = read_result(scored)
    assert rows_in(result, "mine") == {"mine": result}
    assert main(["evaluate", "check", str(scored)]) == 0
    out = capsys.readouterr().out
    assert "1 row(s) of results, complete and consistent (realisr-v1)" in out
    assert f"{result['mean']['psnr_y']:.4f}" in out


def test_a_table_with_costs_and_credit_is_accepted(scored: Path, tmp_path: Path) -> None:
    result = json.loads(scored.read_text())
    theirs = {"trained": 12, "unet_evaluations": 1, "milliseconds": 3.5, "credit": "A. Author, arXiv 0000.00000"}
    (tmp_path / "table.json").write_text(json.dumps(table_of(result, theirs=theirs)))
    assert list(rows_in(read_result(tmp_path / "table.json"), "table")) == ["mine", "theirs"]


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(result: dict[str, Any]) -> None:
        *places, last = path.split("/")
        for place in places:
            result = result[place]
        if value is None:
            del result[last]
        else:
            result[last] = value

    return change


BROKEN = {
    "no versions": (_set("versions", None), "the file must contain ['versions'] properties"),
    "another protocol": (_set("protocol", "mine"), "protocol must be same as const definition: realisr-v1"),
    "an unknown column": (_set("mean/lpips_vgg", 0.2), "mean must not contain {'lpips_vgg'} properties"),
    "words for a number": (_set("mean/psnr_y", "27 dB"), "mean.psnr_y must be number or null"),
    "a hash that is none": (_set("data/reference", "abc"), "data.reference must match pattern"),
    "no pictures": (_set("images", {}), "images must contain at least 1 properties"),
    "another mean": (_set("mean/psnr_y", 31.5), "psnr_y: the mean is given as 31.5 and that of the pictures is"),
    "a picture without the column": (_set("images/coffee/ssim_y", None), "ssim_y: the mean is given as"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_one_sentence(
    what: str, scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, words = BROKEN[what]
    for result in (json.loads(scored.read_text()), table_of(json.loads(scored.read_text()))):
        change(result if set(what.split()) & {"versions", "protocol"} else result.get("rows", {}).get("mine", result))
        path = tmp_path / "theirs.json"
        path.write_text(json.dumps(result))
        assert main(["evaluate", "check", str(path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line and "theirs.json" in line, line


def test_rows_of_other_pictures_are_no_table(scored: Path, tmp_path: Path) -> None:
    result, path = json.loads(scored.read_text()), tmp_path / "table.json"
    fewer = {
        key: {"coffee": row["coffee"]} if key == "images" else row["coffee"]
        for key, row in (("images", result["images"]), ("mean", result["images"]))
    }
    path.write_text(json.dumps(table_of(result, theirs=fewer)))
    with pytest.raises(ValueError, match="rows 'mine' and 'theirs' are not of the same pictures"):
        read_result(path)
    path.write_text(json.dumps(table_of(result, theirs={"data": {**result["data"], "reference": "0" * 64}})))
    with pytest.raises(ValueError, match="have another reference"):
        read_result(path)


def test_what_is_no_file_of_results(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text, words in (("{", "is no JSON"), ("[]", "must be object"), ('{"protocol": NaN}', "NaN is no number")):
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            read_result(path)
    assert complaint({"protocol": PROTOCOL}, SCHEMA) is not None
