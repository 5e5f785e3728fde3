"""Every script can be loaded, and the one that measures the anchor measures a real photograph."""

import runpy
from pathlib import Path

import pytest
import skimage.data
from PIL import Image

SCRIPTS = sorted((Path(__file__).parents[1] / "scripts").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script_loads(script: Path) -> None:
    assert callable(runpy.run_path(str(script), run_name="loaded")["main"])


def test_train_says_how_to_use_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    script = next(path for path in SCRIPTS if path.stem == "train")
    monkeypatch.setattr("sys.argv", ["train.py", "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(script), run_name="__main__")
    assert stopped.value.code in (0, None)
    assert "The same command again resumes" in capsys.readouterr().out


def test_measure_anchor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    # The split is made by name: this one is held out.
    Image.fromarray(skimage.data.coffee()[:, ::-1]).save(photographs / "held_out_2.png")
    script = runpy.run_path(str(SCRIPTS[[path.stem for path in SCRIPTS].index("measure_anchor")]), run_name="loaded")
    output = tmp_path / "anchor.json"
    arguments = ["--photographs", str(photographs), "--json", str(output)]
    monkeypatch.setattr("sys.argv", ["measure_anchor.py", *arguments])
    assert script["main"]() == 0
    assert '"t_hat_iqr"' in output.read_text()
