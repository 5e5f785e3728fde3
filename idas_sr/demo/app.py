"""The page: what stands where, and which event does what. Everything that it shows comes from ``Studio``."""

from __future__ import annotations

import functools
import hashlib
import inspect
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from idas_sr.color import COLOR_FIXES
from idas_sr.demo import words
from idas_sr.demo.studio import Dial, Studio
from idas_sr.pipeline import SEED

logger = logging.getLogger(__name__)
STYLE = Path(__file__).with_name("style.css")
EDITOR_SIDE = 640
MAX_BATCH = 100
PAINT = "#ff5a1f"

SIDES, SIDES_INVENTED = "Enlarged input | restored", "Restored | invented detail"

TITLE = """# IDaS-SR
One step from a poor photograph to one four times as large, with a dial from *closest to what was there* to *most
detail*. Pictures stay on this server for an hour at most."""
HELP = """Paint where the picture should be restored differently: a face more faithfully, grass with more detail. The
dial above holds everywhere else."""


def theme() -> gr.themes.Base:
    """Fonts of the visitor's own machine: nothing is fetched from elsewhere."""
    return gr.themes.Soft(
        primary_hue="orange",
        neutral_hue="slate",
        radius_size="md",
        font=["system-ui", "-apple-system", "Segoe UI", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


def in_one_sentence(error: Exception, folder: Path) -> gr.Error:
    """What a visitor is told: a sentence without a path of the server, and little where nobody foresaw the error."""
    if isinstance(error, ValueError | OSError | MemoryError):
        # Gradio keeps an upload as FOLDER/HASH/NAME: the name is the visitor's, the rest is ours.
        said = re.sub(rf"{re.escape(str(folder))}(?:/[\w.-]+)*/", "", str(error)).splitlines()
        if said and "/" not in said[0].replace("idas-sr/", ""):
            return gr.Error(said[0], print_exception=False, title="Not restored")
    logger.exception("An event of the page failed", exc_info=error)
    return gr.Error("Something went wrong on the server; its log says what.", print_exception=False)


def guarded(studio: Studio) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Events whose errors end in one sentence on the page."""

    def decorate(event: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(event)
        def call(*values: Any) -> Any:
            try:
                return event(*values)
            except gr.Error:
                raise
            except Exception as error:
                raise in_one_sentence(error, studio.folder) from None

        @functools.wraps(event)
        def stream(*values: Any) -> Iterator[Any]:
            try:
                yield from event(*values)
            except gr.Error:
                raise
            except Exception as error:
                raise in_one_sentence(error, studio.folder) from None

        return stream if inspect.isgeneratorfunction(event) else call

    return decorate


def dial_of(
    realism: float,
    seed: float | None,
    upscale: float,
    color_fix: str,
    painted: float,
    painting: dict | None,
    overlay: str = "",
) -> Dial:
    """The controls of the page as the studio takes them."""
    layers = (painting or {}).get("layers") or []
    mask = np.asarray(layers[0])[..., -1] > 127 if layers else None
    # A browser says 4 for 4.0, and a recipe would then differ from the command line's.
    own = int(SEED if seed is None else seed)
    return Dial(float(realism), own, float(upscale), color_fix, float(painted), mask, overlay or "")


def painted_digest(dial: Dial) -> str:
    """Equal for equal painted regions; empty where nothing is painted."""
    if dial.mask is None or not dial.mask.any():
        return ""
    return hashlib.sha256(np.packbits(dial.mask).tobytes()).hexdigest()


def build(studio: Studio) -> gr.Blocks:
    """The page for a studio."""
    with gr.Blocks(title="IDaS-SR", analytics_enabled=False, delete_cache=(600, int(studio.keep_seconds))) as page:
        gr.Markdown(TITLE, elem_id="title")
        with gr.Tab("One picture"):
            _picture_tab(studio)
        with gr.Tab("Many pictures"):
            _batch_tab(studio)
    return page


def _controls(prefix: str) -> tuple[gr.Slider, gr.Number, gr.Slider, gr.Dropdown]:
    """Dial, seed, size and colours; the same in both tabs."""
    realism = gr.Slider(
        0,
        1,
        0.5,
        step=0.05,
        label="Realism",
        info="0 stays closest to the picture, 1 gives most detail",
        elem_id=f"{prefix}-realism",
    )
    with gr.Accordion("Seed, size and colours", open=False):
        with gr.Row():
            seed = gr.Number(SEED, precision=0, minimum=0, label="Seed", min_width=100, elem_id=f"{prefix}-seed")
            color_fix = gr.Dropdown(
                list(COLOR_FIXES),
                value="none",
                label="Colours from the input",
                min_width=100,
            )
        upscale = gr.Slider(1, 8, 4, step=0.5, label="Size of the result", info="the network works at 4")
    return realism, seed, upscale, color_fix


def _picture_tab(studio: Studio) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            upload = gr.Image(
                type="filepath",
                image_mode=None,
                sources=["upload", "clipboard"],
                label="Picture",
                height=230,
                buttons=[],
                elem_id="upload",
            )
            realism, seed, upscale, color_fix = _controls("one")
            with gr.Accordion("Realism by place", open=False, elem_id="places"):
                gr.Markdown(HELP, elem_classes="small")
                painted = gr.Slider(0, 1, 0.0, step=0.05, label="Where painted", elem_id="painted")
                editor = gr.ImageEditor(
                    type="numpy",
                    image_mode="RGBA",
                    format="png",
                    sources=(),
                    transforms=(),
                    layers=False,
                    brush=gr.Brush(default_size=60, colors=[PAINT], default_color=PAINT, color_mode="fixed"),
                    label="Paint",
                    height=360,
                    buttons=[],
                    elem_id="editor",
                    show_label=False,
                )
        with gr.Column(scale=5, min_width=420):
            compare = gr.ImageSlider(
                type="filepath",
                format="png",
                label=SIDES,
                max_height=560,
                interactive=False,
                buttons=["fullscreen"],
                elem_id="compare",
            )
            overlay = gr.Radio(
                [("off", ""), ("changed by realism", "change"), ("differs with the seed", "spread")],
                value="",
                label="Invented detail",
                info="a map of it over the picture; takes as long as nine moves of the dial",
                elem_id="overlay",
            )
            with gr.Row():
                strip_button = gr.Button("Show the middle at five realisms", interactive=False, elem_id="strip-button")
                download = gr.DownloadButton("Download", variant="primary", interactive=False, elem_id="download")
            panel = gr.HTML(elem_id="panel")
            strip = gr.Gallery(
                columns=5,
                rows=1,
                height=220,
                object_fit="contain",
                visible=False,
                interactive=False,
                format="png",
                buttons=[],
                show_label=False,
                elem_id="strip",
            )
    guard = guarded(studio)
    dial = [realism, seed, upscale, color_fix, painted, editor, overlay]
    shown = [compare, panel, download, strip_button]
    strokes = gr.State("")

    @guard
    def restore(path: str | None, *values: Any) -> tuple[Any, ...]:
        if path is None:
            return None, "", gr.update(value=None, interactive=False), gr.update(interactive=False)
        result = studio.restore(Path(path), dial_of(*values))
        button = gr.update(value=str(result.after), interactive=True)
        pair = (result.before, result.after) if result.overlay is None else (result.after, result.overlay)
        label = SIDES if result.overlay is None else SIDES_INVENTED
        return (
            gr.update(value=tuple(map(str, pair)), label=label),
            words.describe(result, values[0]),
            button,
            gr.update(interactive=True),
        )

    @guard
    def open_picture(path: str | None, *values: Any) -> tuple[Any, ...]:
        # What was painted belongs to the picture before.
        first = restore(path, *values[:-2], None, values[-1])
        canvas = None if path is None else studio.enlarged(Path(path), EDITOR_SIDE)
        painting = None if canvas is None else {"background": canvas, "layers": [], "composite": None}
        return *first, painting, gr.update(value=None, visible=False), ""

    @guard
    def repaint(path: str | None, before: str, *values: Any) -> tuple[Any, ...]:
        # The editor also speaks up where nothing was painted: when it gets its picture.
        now = painted_digest(dial_of(*values))
        if path is None or now == before:
            return *(gr.skip() for _ in shown), before
        return *restore(path, *values), now

    @guard
    def along(path: str | None, *values: Any) -> Iterator[Any]:
        pictures: list[tuple[Any, str]] = []
        for level, picture in studio.strip(Path(path or ""), dial_of(*values)):
            pictures.append((picture, f"realism {level:g}"))
            yield gr.update(value=pictures, visible=True)

    # One model, one queue: "always_last" drops the moves of a dial that another move has overtaken.
    options: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
    upload.change(open_picture, [upload, *dial], [*shown, editor, strip, strokes], **options)
    options |= {"trigger_mode": "always_last", "show_progress": "minimal", "show_progress_on": [compare]}
    moved = [realism.change, seed.change, upscale.change, color_fix.change, painted.change, overlay.change]
    gr.on(moved, restore, [upload, *dial], shown, **options)
    editor.input(repaint, [upload, strokes, *dial], [*shown, strokes], **options)
    strip_button.click(along, [upload, *dial], strip, concurrency_id="model", api_visibility="private")


def _batch_tab(studio: Studio) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            files = gr.File(
                file_count="multiple",
                file_types=["image"],
                label=f"Pictures (at most {MAX_BATCH})",
                height=200,
                elem_id="files",
            )
            realism, seed, upscale, color_fix = _controls("many")
            start = gr.Button("Restore all", variant="primary", elem_id="start")
        with gr.Column(scale=5, min_width=420):
            progress = gr.HTML(elem_id="progress")
            archive = gr.DownloadButton("Download all (zip)", interactive=False, elem_id="archive")

    @guarded(studio)
    def run(paths: list[str] | None, *values: Any) -> Iterator[Any]:
        if not paths:
            raise ValueError("Choose pictures first.")
        if len(paths) > MAX_BATCH:
            raise ValueError(f"These are {len(paths)} pictures and this page takes {MAX_BATCH}; use idas-sr infer.")
        outcomes: list[Any] = []
        yield words.report(outcomes, len(paths)), gr.update(value=None, interactive=False)
        for outcome in studio.batch(
            [Path(path) for path in paths], dial_of(values[0], values[1], values[2], values[3], 0.0, None)
        ):
            outcomes.append(outcome)
            yield words.report(outcomes, len(paths)), gr.skip()
        is_there = any(outcome.status == "restored" for outcome in outcomes)
        ready = str(studio.zip_of(outcomes)) if is_there else None
        yield words.report(outcomes, len(paths)), gr.update(value=ready, interactive=is_there)

    start.click(
        run,
        [files, realism, seed, upscale, color_fix],
        [progress, archive],
        show_progress="hidden",
        concurrency_id="batch",
        concurrency_limit=1,
        api_visibility="private",
    )
