"""The web app as a visitor sees it, driven in a real browser without a network (`pytest -m browser`)."""

import argparse
import os
import re
import statistics
import time
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from idas_sr import cli
from idas_sr.cli import demo
from idas_sr.demo.serve import serving

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[1]
CAT = ROOT / "examples" / "small.png"
SHOTS = Path(os.environ["IDAS_SR_SHOTS"]) if "IDAS_SR_SHOTS" in os.environ else None
PATIENCE = 120_000
"""Milliseconds, for machines on which much else is running."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    pytest.importorskip("gradio", reason="the web app needs the extra demo")
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    pipeline, settings = demo.load(parser.parse_args(["--device", "cpu"]))
    with serving(pipeline, settings, max_pixels=100_000) as found:
        yield found


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": 1360, "height": 1000})
    opened.set_default_timeout(PATIENCE)
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(address)
    opened.wait_for_selector("#upload")
    yield opened
    elsewhere = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert not elsewhere, "the page asks other servers"
    opened.close()


def shot(page: Any, name: str) -> None:
    """Keep what the page looks like, where somebody wants to see it."""
    if SHOTS is not None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.wait_for_timeout(700)
        page.screenshot(path=SHOTS / f"{name}.png")


def upload(page: Any, path: Path = CAT) -> None:
    page.set_input_files("#upload input[type=file]", path)
    page.wait_for_selector("#panel .panel")


def shown(page: Any) -> str:
    """Address of the restored picture."""
    return page.eval_on_selector_all("#compare img", "all => all.map(one => one.src)")[-1]


def after(page: Any, act: Any) -> np.ndarray:
    """The restored picture that follows an action."""
    before = shown(page)
    act()
    page.wait_for_function(
        "old => [...document.querySelectorAll('#compare img')].at(-1).src !== old", arg=before, polling=20
    )
    return pixels(page)


def pixels(page: Any) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(page.request.get(shown(page)).body())))


def move(page: Any, realism: float) -> None:
    page.fill("#one-realism input[type=number]", str(realism))
    page.press("#one-realism input[type=number]", "Enter")


def test_the_slider_shows_what_infer_writes_and_the_download_is_that_file(page: Any, tmp_path: Path) -> None:
    upload(page)
    picture = after(page, lambda: move(page, 0.8))
    words = ["-i", str(CAT), "-o", str(tmp_path), "--realism", "0.8", "--seed", "42", "--device", "cpu"]
    assert cli.main(["infer", *words]) == 0
    assert np.array_equal(picture, np.asarray(Image.open(tmp_path / "small.png")))
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "small.png"
    assert Path(download.value.path()).read_bytes() == (tmp_path / "small.png").read_bytes()
    shot(page, "slider")


def test_ten_moves_of_the_slider(page: Any, capsys: pytest.CaptureFixture[str]) -> None:
    # A picture that no other test has opened.
    upload(page, ROOT / "examples" / "mountain.png")
    first = seconds(page)
    assert "encoded, anchored" in page.inner_text("#panel")
    moves, waits = [], []
    for index in range(10):
        start = time.perf_counter()
        after(page, lambda index=index: move(page, index / 10))
        waits.append(time.perf_counter() - start)
        page.wait_for_function("() => document.querySelector('#panel').innerText.includes('from its anchor')")
        moves.append(seconds(page))
    median = statistics.median(moves)
    with capsys.disabled():
        print(
            f"\nfirst restoration {first:.2f} s, move {median:.2f} s: {first / median:.2f} times as fast; "
            f"a move takes {statistics.median(waits):.2f} s in the browser"
        )


def seconds(page: Any) -> float:
    found = re.search(r"in ([\d.]+) s", page.inner_text("#panel"))
    assert found is not None
    return float(found.group(1))


def test_the_brush_changes_what_is_painted(page: Any) -> None:
    upload(page)
    plain = after(page, lambda: move(page, 1.0)).astype(float)
    page.click("#places button")
    canvas = page.locator("#editor canvas").last
    canvas.wait_for()
    page.wait_for_timeout(2000)
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def paint() -> None:
        page.mouse.move(middle[0] - 30, middle[1])
        page.mouse.down()
        page.mouse.move(middle[0] + 30, middle[1], steps=12)
        page.mouse.up()

    before = pixels(page)
    assert np.array_equal(before, plain), "opening the editor restored something else"
    change = np.abs(after(page, paint).astype(float) - plain).mean(axis=2)
    rows, columns = (side // 2 for side in change.shape)
    assert change[rows - 8 : rows + 8, columns - 40 : columns + 40].mean() > 0.2
    assert change[:40].mean() < 0.01 and change[-40:].mean() < 0.01
    shot(page, "brush")


def test_the_overlay_is_switched_on_and_off(page: Any) -> None:
    upload(page)
    plain = after(page, lambda: move(page, 1.0))
    heat = after(page, lambda: page.get_by_label("changed by realism").check())
    assert heat.shape == plain.shape and (np.ptp(heat.astype(int), axis=2) > 40).any()
    page.wait_for_selector("#panel .heat")
    assert "of the energy of the detail is invented" in page.inner_text("#panel")
    shot(page, "overlay")
    again = after(page, lambda: page.get_by_label("off", exact=True).check())
    assert np.array_equal(again, plain)


def test_the_strip(page: Any) -> None:
    upload(page)
    page.click("#strip-button")
    page.wait_for_function("() => document.querySelectorAll('#strip img').length === 5")
    assert "realism 0.25" in page.inner_text("#strip")
    shot(page, "strip")


def test_a_batch_with_a_torn_file(page: Any, tmp_path: Path) -> None:
    torn = tmp_path / "torn.png"
    torn.write_bytes(CAT.read_bytes()[:2000])
    page.get_by_role("tab", name="Many pictures").click()
    page.set_input_files("#files input[type=file]", [CAT, torn])
    page.wait_for_selector("text=torn")
    page.wait_for_timeout(1000)
    page.click("#start")
    page.wait_for_selector("text=2 of 2")
    text = page.inner_text("#progress")
    assert "512x512 pixels" in text and "torn.png cannot be read" in text and "/" not in text.replace("idas-sr", "")
    page.wait_for_function("() => !document.querySelector('#archive').disabled")
    shot(page, "batch")
    with page.expect_download() as download:
        page.click("#archive")
    with zipfile.ZipFile(download.value.path()) as archive:
        assert archive.namelist() == ["small.png"]


def test_mistakes_end_in_a_sentence_without_a_path(page: Any, tmp_path: Path) -> None:
    Image.new("RGB", (400, 300)).save(tmp_path / "wide.png")
    page.set_input_files("#upload input[type=file]", tmp_path / "wide.png")
    page.wait_for_selector("text=400x300 pixels and this page takes 0.1 million")
    assert "/tmp" not in page.inner_text("body")
    shot(page, "refused")


def test_nothing_stays(browser: Any, tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    pipeline, settings = demo.load(parser.parse_args(["--device", "cpu"]))
    with serving(pipeline, settings) as found:
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(found)
        page.wait_for_selector("#upload")
        upload(page)
        assert any(folder.rglob("small.png")) and oct(folder.stat().st_mode)[-3:] == "700"
        page.close()
    assert not folder.exists()
