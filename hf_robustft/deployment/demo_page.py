# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The page of a demo, by gradio, which is imported when a page is made."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from ..files import settle
from ..modeling.tensor_files import read_json_object
from .demo import WAITING, Demo
from .extras import SPACE_FILE, check_demo
from .nearest_images import NearestImages
from .pipeline import pipeline
from .space_files import MODEL_FOLDER, NEAREST_FILE, space_facts

#: Bytes of a file that is sent; its pixels are bounded where it is decoded.
_LARGEST = "64mb"
#: Seconds after which a file that was sent is deleted, and between two looks.
_KEPT = 600


def demo_page(demo: Demo) -> Any:
    """
    Make the page.

    Args:
        demo ([`Demo`]): What answers.

    Returns:
        `gradio.Blocks`: A page that sends nothing elsewhere, and deletes what was sent to it after ten minutes and at its end.

    Raises:
        ValueError: If gradio is not installed.
    """
    check_demo()
    # Also before its import, which would ask for its newest version.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # Of its own, to be removed at the end with all that was sent.
    sent = tempfile.TemporaryDirectory(prefix="hf_robustft_demo_")
    os.environ["GRADIO_TEMP_DIR"] = sent.name
    import gradio

    with gradio.Blocks(title=demo.name, analytics_enabled=False, delete_cache=(_KEPT, _KEPT)) as page:
        gradio.HTML(demo.heading())
        with gradio.Row():
            with gradio.Column():
                options = {"type": "filepath", "image_mode": None, "sources": ["upload", "clipboard", "webcam"]}
                image = gradio.Image(label="Image", height=320, elem_id="image", **options)
                # gradio would open the file itself, and show an error of its own.
                image.preprocess = _path
            with gradio.Column():
                answer = gradio.HTML(WAITING, elem_id="answer")
        page.sent = sent
        image.change(demo.html, image, answer, api_name="predict", show_progress="minimal", concurrency_limit=1)
    return page


def _path(payload: Any) -> str | None:
    return None if payload is None else payload.path


def serve(page: Any, host: str | None = None, port: int | None = None, share: bool = False) -> Any:
    """
    Start a page, and return at once.

    Args:
        page (`gradio.Blocks`): What [`demo_page`] returned.
        host (`str`, *optional*): The address to listen at; by default where the environment says so, as a Space does, else this machine
            alone.
        port (`int`, *optional*): By default the first free one from 7860 on.
        share (`bool`, *optional*, defaults to `False`): Whether gradio makes an address for it that is open to everybody.

    Returns:
        `gradio.Blocks`: The page, with `local_url` and `share_url`.

    Raises:
        OSError: If the port is taken, or the address is none of this machine.
    """
    import gradio

    # No fonts from elsewhere.
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    # Not by environment variables: what is shared, and how, the command says.
    off = {"mcp_server": False, "ssr_mode": False, "enable_monitoring": False, "run_history": False, "pwa": False}
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=share,
            prevent_thread_lock=True,
            quiet=True,
            max_file_size=_LARGEST,
            footer_links=["api"],
            theme=gradio.themes.Default(**fonts),
            **off,
        )
    except OSError as error:
        where = f"{host or '127.0.0.1'}:{port or 7860}"
        raise OSError(f"The page cannot be served at {where} ({' '.join(str(error).split())[:120]}); give another --port or --host.") from error
    return page


def wait(page: Any) -> None:
    """Serve a `page` until the process is told to end."""
    try:
        while True:
            time.sleep(3600)
    finally:
        page.close(verbose=False)
        page.sent.cleanup()


def open_space(folder: str | Path) -> Any:
    """
    Make the page of a folder that `hf-robustft demo --space` wrote.

    Args:
        folder (`str` or `Path`): The folder.

    Returns:
        `gradio.Blocks`: The page.

    Raises:
        OSError: If a file is missing or cannot be read.
        ValueError: If the folder holds something else.
    """
    folder = Path(folder)
    settle(folder)
    facts = space_facts(read_json_object(folder / SPACE_FILE), folder)
    source = str(folder / MODEL_FOLDER) if facts["model"] is None else facts["model"]
    prompts = {"class_names": facts["class_names"], "templates": facts["templates"]}
    classify = pipeline(source, revision=facts["revision"], require_detector=False, **prompts)
    nearest = NearestImages.load(folder / NEAREST_FILE) if facts["nearest"] else None
    return demo_page(Demo(classify, facts["name"], nearest, facts["top_k"]))
