"""The comparison page as somebody who votes sees it, from a file, in a real browser (`pytest -m browser`)."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image

from idas_sr.cli import main
from idas_sr.comparison.votes import read_ballot, unseal

pytestmark = pytest.mark.browser
SHOTS = Path(os.environ["IDAS_SR_SHOTS"]) if "IDAS_SR_SHOTS" in os.environ else None
NAMES = ("faithful", "detailed", "smooth")
PICTURES = ("astronaut", "chelsea", "coffee", "rocket", "retina")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of three results on five photographs: fifteen questions, with input and reference."""
    folder = tmp_path_factory.mktemp("page")
    for name in (*NAMES, "hq", "lq"):
        (folder / name).mkdir()
    for stem in PICTURES:
        hq = Image.fromarray(getattr(skimage.data, stem)()).resize((480, 360), Image.Resampling.LANCZOS)
        lq = hq.resize((120, 90), Image.Resampling.BICUBIC)
        enlarged = lq.resize(hq.size, Image.Resampling.BICUBIC)
        kinds = {"faithful": 0.5, "detailed": 0.8, "smooth": 0.0}
        for name, share in kinds.items():
            Image.blend(enlarged, hq, share).save(folder / name / f"{stem}.png")
        hq.save(folder / "hq" / f"{stem}.png")
        lq.save(folder / "lq" / f"{stem}.png")
    words = [*(str(folder / name) for name in NAMES), "--lq", str(folder / "lq"), "--hq", str(folder / "hq")]
    assert main(["compare", *words, "-o", str(folder / "page.html"), "--seed", "3"]) == 0
    return folder / "page.html"


@pytest.fixture
def page(browser: Any, path: Path) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1366, "height": 768})
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    asked: list[str] = []
    errors: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    opened.goto(path.as_uri())
    yield opened
    assert not errors
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))], "the page asks other servers"
    context.close()


def shot(page: Any, name: str) -> None:
    """Keep what the page looks like, where somebody wants to see it."""
    if SHOTS is not None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SHOTS / f"{name}.png")


def ready(page: Any, index: int) -> None:
    page.wait_for_function("i => document.querySelector('#stage').dataset.ready === String(i)", arg=index)


def press(page: Any, keys: str) -> None:
    """Answer the questions from the first on, one key each."""
    key = {"l": "ArrowLeft", "r": "ArrowRight", "t": "ArrowDown", "s": "s"}
    for index, letter in enumerate(keys):
        ready(page, index)
        page.keyboard.press(key[letter])


def save(page: Any, button: str, target: Path) -> dict[str, Any]:
    with page.expect_download() as download:
        page.click(button)
    download.value.save_as(target)
    return json.loads(target.read_text(encoding="utf-8"))


def test_all_pairs_by_keyboard_and_the_scores_are_the_commands(page: Any, tmp_path: Path, capsys: Any) -> None:
    ready(page, 0)
    shot(page, "first")
    press(page, "lrltsrrltlrltl")
    ready(page, 14)
    assert page.inner_text("#count") == "15 of 15"
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#last:not([hidden])")
    shot(page, "last")
    assert not any(name in page.content() for name in NAMES), "the names are in the page before the end"
    page.keyboard.press("Enter")
    page.wait_for_selector("#results:not([hidden])")
    assert all(name in page.inner_text("#results") for name in NAMES)
    shot(page, "results")
    content = save(page, "#export-results", tmp_path / "votes.json")
    assert [vote["choice"][0] for vote in content["votes"]] == list("lrltsrrltlrltlr")
    assert content["revealed"] is True and sorted(unseal(content["sealed"])) == sorted(NAMES)
    assert main(["compare", "--votes", str(tmp_path / "votes.json"), "--json", str(tmp_path / "scores.json")]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    rows = page.eval_on_selector_all(
        "#scores tbody th",
        "all => all.map(th => [th.textContent, +th.dataset.score, +th.dataset.low, +th.dataset.high])",
    )
    assert [row[0] for row in rows] == [method["name"] for method in scores["methods"]]
    for row, method in zip(rows, scores["methods"], strict=True):
        assert row[1:] == pytest.approx([method["score"], method["low"], method["high"]], abs=1e-7)
    # And as they are printed, wins, ties and losses with them.
    printed = page.inner_text("#scores")
    out = capsys.readouterr().out
    for method in scores["methods"]:
        assert f"{abs(method['score']):.2f}" in printed and f"{method['score']:+.3f}" in out
    cells = page.eval_on_selector_all(
        "#scores tbody tr", "all => all.map(tr => [...tr.cells].slice(-3).map(cell => +cell.textContent))"
    )
    assert cells == [[method["wins"], method["ties"], method["losses"]] for method in scores["methods"]]


@pytest.mark.parametrize("votes", ["lllllllllllllll", "ttttttttttttttt", "lrlrlrlrlrlrlrl", "ssssssssssssstl"])
def test_scores_are_the_commands_for_other_votes(page: Any, tmp_path: Path, votes: str) -> None:
    press(page, votes)
    page.click("#reveal")
    save(page, "#export-results", tmp_path / "votes.json")
    status = main(["compare", "--votes", str(tmp_path / "votes.json"), "--json", str(tmp_path / "scores.json")])
    rows = page.eval_on_selector_all("#scores tbody th", "all => all.map(th => [+th.dataset.score, +th.dataset.high])")
    if not rows:
        assert status == 2 and "never compared" in page.inner_text("#scores")
        return
    scores = json.loads((tmp_path / "scores.json").read_text())
    expected = sorted((method["score"], method["high"]) for method in scores["methods"])
    assert np.allclose(sorted(map(tuple, rows)), expected, atol=1e-7)


def test_votes_survive_the_page_and_can_be_taken_back_and_carried_on(
    page: Any, browser: Any, path: Path, tmp_path: Path
) -> None:
    press(page, "llt")
    ready(page, 3)
    page.keyboard.press("u")
    ready(page, 2)
    page.keyboard.press("s")
    ready(page, 3)
    page.reload()
    ready(page, 3)
    assert page.inner_text("#count") == "4 of 15"
    page.click("#open-votes")
    page.fill("#rater", "Ann Example")
    shot(page, "votes")
    content = save(page, "#export", tmp_path / "part.json")
    assert [vote["choice"] for vote in content["votes"]] == ["left", "left", "skip"]
    assert not any(name in (tmp_path / "part.json").read_text() for name in NAMES)
    assert read_ballot(tmp_path / "part.json").rater == "Ann Example"
    other = browser.new_context().new_page()
    other.goto(path.as_uri())
    other.click("#open-votes")
    (tmp_path / "wrong.json").write_text(json.dumps({**content, "page": "another"}))
    other.set_input_files("#file", tmp_path / "wrong.json")
    other.wait_for_selector("text=These votes are of another page.")
    other.set_input_files("#file", tmp_path / "part.json")
    ready(other, 3)
    assert other.inner_text("#count") == "4 of 15"
    other.context.close()


def transforms(page: Any) -> list[str]:
    return page.eval_on_selector_all("#stage img", "all => all.map(one => one.style.transform)")


def middle(page: Any, figure: int) -> tuple[float, float]:
    """What lies in the middle of a panel, in shares of the picture."""
    return tuple(
        page.evaluate(
            """i => { const frame = document.querySelectorAll('.view')[i].getBoundingClientRect();
            const box = document.querySelectorAll('.view img')[i].getBoundingClientRect();
            return [(frame.x + frame.width / 2 - box.x) / box.width,
                    (frame.y + frame.height / 2 - box.y) / box.height]; }""",
            figure,
        )
    )


def test_all_panels_zoom_and_move_together(page: Any) -> None:
    ready(page, 0)
    assert page.locator("#stage figure").count() == 4
    assert [middle(page, index) for index in range(4)] == [pytest.approx((0.5, 0.5), abs=1e-3)] * 4
    # Whole in every panel, whatever the panel's size.
    assert page.evaluate(
        "() => [...document.querySelectorAll('.view')].every(view => { const box = view.firstChild"
        ".getBoundingClientRect(); return box.width < view.clientWidth + 1 && box.height < view.clientHeight + 1; })"
    )
    for _ in range(5):
        page.keyboard.press("+")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    box = page.locator(".view").first.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.wheel(0, -300)
    page.mouse.down()
    page.mouse.move(box["x"] + 60, box["y"] + 90, steps=4)
    page.mouse.up()
    moved = [middle(page, index) for index in range(4)]
    assert moved[0] != pytest.approx((0.5, 0.5), abs=0.005)
    for other in moved[1:]:
        assert other == pytest.approx(moved[0], abs=2e-3)
    # Of the same size on the screen, the small input too.
    widths = page.eval_on_selector_all("#stage img", "all => all.map(one => one.getBoundingClientRect().width)")
    assert widths == pytest.approx([widths[0]] * 4, rel=1e-3)
    shot(page, "zoomed")
    page.keyboard.press("1")
    assert page.inner_text("#zoom") == "100 %" and page.inner_text("#count") == "1 of 15"
    page.keyboard.press("r")
    page.wait_for_function("() => document.querySelectorAll('#stage figure').length === 2")
    shot(page, "without")


def test_it_can_be_used_without_a_mouse_and_read_by_a_machine(page: Any) -> None:
    ready(page, 0)
    # Every control has a name, a visible focus, and enough contrast.
    unnamed = page.eval_on_selector_all(
        "button, input, output, progress, dialog",
        "all => all.filter(n => !(n.innerText || n.textContent || '').trim() && !n.getAttribute('aria-label')"
        " && !n.getAttribute('aria-labelledby') && !n.labels?.length).map(n => n.outerHTML)",
    )
    assert unnamed == []
    assert all(page.eval_on_selector_all("#stage img", "all => all.map(one => one.alt)"))
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert page.evaluate("document.activeElement.id") == "open-keys"
    page.keyboard.press("Enter")
    page.wait_for_selector("#keys[open]")
    shot(page, "keys")
    # Keys mean nothing for the question while something lies over it.
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")
    assert page.inner_text("#count") == "1 of 15"
    low = page.evaluate(CONTRAST)
    assert low == [], "text of too little contrast"
    page.keyboard.press("ArrowDown")
    ready(page, 1)
    assert page.inner_text("#said") == "No difference. 1 of 15 done."


CONTRAST = """() => {
  const light = (c) => { const v = c.map(x => (x /= 255) <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
    return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const back = (node) => { for (; node; node = node.parentElement) {
    const c = parse(getComputedStyle(node).backgroundColor); if (c.length < 4 || c[3] > 0) return c.slice(0, 3); }
    return [255, 255, 255]; };
  const found = [];
  for (const node of document.querySelectorAll('button, h1, h2, p, dt, dd, kbd, span, figcaption, output, label')) {
    if (!node.offsetParent || !node.textContent.trim() || node.disabled) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color).slice(0, 3)), light(back(node))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) found.push(node.outerHTML + ' ' + ratio.toFixed(2));
  }
  return found;
}"""


def test_it_fits_a_laptop_and_a_small_window(page: Any) -> None:
    for width, height in ((1280, 640), (1366, 768), (700, 900)):
        page.set_viewport_size({"width": width, "height": height})
        ready(page, 0)
        inside = page.evaluate(
            "() => { const all = document.documentElement;"
            " return [all.scrollWidth <= innerWidth, all.scrollHeight <= innerHeight]; }"
        )
        assert inside == [True, True], (width, height)
        shot(page, f"at-{width}")


def test_ending_early_shows_what_there_is(page: Any) -> None:
    press(page, "l")
    ready(page, 1)
    page.click("#open-finish")
    page.wait_for_selector("#confirm[open]")
    shot(page, "confirm")
    page.click("#confirm-no")
    assert page.inner_text("#count") == "2 of 15" and not any(name in page.content() for name in NAMES)
    page.click("#open-finish")
    page.click("#confirm-yes")
    page.wait_for_selector("#results:not([hidden])")
    assert "never compared with the others" in page.inner_text("#scores")
    # What was seen cannot be unseen: the answers are closed.
    page.keyboard.press("u")
    assert "1 of 15 questions answered" in page.inner_text("#summary")


def test_pictures_beside_the_page_are_shown(browser: Any, path: Path) -> None:
    folders = [str(path.parent / name) for name in NAMES]
    assert main(["compare", *folders, "-o", str(path.parent / "light.html"), "--no-embed", "--limit", "2"]) == 0
    opened = browser.new_page()
    opened.goto((path.parent / "light.html").as_uri())
    ready(opened, 0)
    assert opened.eval_on_selector_all("#stage img", "all => all.map(one => one.naturalWidth)") == [480, 480]
    # The folder was left behind: that is said, and nobody votes on nothing.
    (path.parent / "light_pictures").rename(path.parent / "elsewhere")
    opened.reload()
    opened.wait_for_function("() => document.querySelector('#said').textContent.includes('cannot be shown')")
    assert opened.inner_text("#trouble").startswith("A picture cannot be shown")
    opened.keyboard.press("ArrowLeft")
    assert opened.inner_text("#count") == "1 of 2"
    opened.close()
