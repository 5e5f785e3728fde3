"""Starts the web app: where it listens, how much it takes, and that nothing is left behind."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from idas_sr.batch import Settings
from idas_sr.demo.studio import Studio
from idas_sr.pipeline import IDaSSRPipeline

MAX_PIXELS = 1_000_000
MAX_BYTES = 50 * 10**6


@contextmanager
def serving(
    pipeline: IDaSSRPipeline,
    settings: Settings,
    host: str = "127.0.0.1",
    port: int | None = None,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
) -> Iterator[str]:
    """Serve the page as long as the context lasts; gives its address.

    Uploads and results lie in one temporary folder, readable by this user only, and go with it.

    Args:
        pipeline: loaded, on its device.
        settings: of everything that the page's dial does not say.
        host: address to listen on; the default is reached from this machine only.
        port: None: the first free one from 7860.
        max_pixels: of an uploaded picture.
        max_bytes: of an uploaded file.

    Raises:
        ValueError: gradio is not installed.
        OSError: the port is taken.
    """
    # Read when gradio is imported: no reports about this machine to its makers, no look for newer versions.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ValueError('The web app needs gradio: pip install "idas-sr[demo]" (idas-sr doctor says how).') from error
    with tempfile.TemporaryDirectory(prefix="idas-sr-demo-") as name:
        folder = Path(name).resolve()
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        from idas_sr.demo import app

        page = app.build(Studio(pipeline, settings, folder, max_pixels))
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                max_file_size=max_bytes,
                theme=app.theme(),
                css=app.STYLE.read_text(encoding="utf-8"),
                footer_links=[],
                share=False,
                pwa=False,
                ssr_mode=False,
                enable_monitoring=False,
                quiet=True,
                inbrowser=False,
                prevent_thread_lock=True,
            )
            yield address
        finally:
            page.close(verbose=False)
