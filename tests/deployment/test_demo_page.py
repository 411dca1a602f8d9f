# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
The page of a demo, served: by gradio's HTTP interface, by a browser that an image is dropped into, and as a Space runs it.

Needs gradio, which asks for another Pillow than constraints.txt has: in an environment of its own,
`pip install -e ".[test,demo]" && python -m pytest -m "" tests/deployment/test_demo_page.py`.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from hf_robustft import pipeline
from hf_robustft.deployment.demo import Demo
from hf_robustft.deployment.demo_page import demo_page, serve
from hf_robustft.deployment.nearest_images import NearestImages
from hf_robustft.deployment.space_files import GRADIO, write_space

gradio = pytest.importorskip("gradio", reason="needs gradio: pip install 'hf_robustft[demo]'")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def demo(checkpoint, data):
    classify = pipeline(checkpoint, device="cpu")
    return Demo(classify, "my-clip", NearestImages.read(data, classify, progress=False))


@pytest.fixture
def page(demo):
    made = serve(demo_page(demo), "127.0.0.1")
    yield made
    made.close(verbose=False)
    made.sent.cleanup()


def test_a_space_gets_the_version_that_this_was_tried_with():
    assert gradio.__version__ == GRADIO


def test_the_page_answers_over_http_and_keeps_nothing(demo, page, photos, tmp_path):
    from gradio_client import Client, handle_file

    (tmp_path / "bad.png").write_bytes(b"nonsense")
    Image.new("L", (20, 20)).save(tmp_path / "grey.gif")
    client = Client(page.local_url, verbose=False, download_files=False)
    for path in [next(photos.rglob("*.png")), tmp_path / "bad.png", tmp_path / "grey.gif"]:
        assert client.predict(handle_file(str(path)), api_name="/predict") == demo.html(path)
    assert page.share_url is None and page.analytics_enabled is False and page.server_name == "127.0.0.1"
    sent = Path(page.sent.name)
    assert len([path for path in sent.rglob("*") if path.is_file()]) >= 3
    page.close(verbose=False)
    page.sent.cleanup()
    assert not sent.exists()


def test_a_port_that_is_taken_is_one_line(demo, page):
    with pytest.raises(OSError, match="--port") as error:
        serve(demo_page(demo), "127.0.0.1", page.server_port)
    assert "\n" not in str(error.value)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def answers(url, process):
    for _ in range(600):
        if process.poll() is not None:
            raise AssertionError(process.stderr.read())
        try:
            return urllib.request.urlopen(url, timeout=5).status
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"{url} does not answer")


async def dropped(url, image, width, profile):
    """What a browser shows when an image was put into the page: the answer, its pictures that could be drawn, the width, and what was asked for elsewhere."""
    import aiohttp

    words = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
    browser = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        port = next(line for line in browser.stderr if "DevTools listening on" in line).split(":")[-1].split("/")[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as found:
                tab = next(tab for tab in await found.json() if tab["type"] == "page")
            async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket_:
                number, asked = 0, []

                async def call(method, **params):
                    nonlocal number
                    number += 1
                    await socket_.send_str(json.dumps({"id": number, "method": method, "params": params}))
                    while True:
                        said = json.loads((await socket_.receive(timeout=60)).data)
                        if said.get("method") == "Network.requestWillBeSent":
                            asked.append(said["params"]["request"]["url"])
                        if said.get("id") == number:
                            return said["result"]

                async def value(expression):
                    return (await call("Runtime.evaluate", expression=expression, returnByValue=True))["result"].get("value")

                async def until(expression):
                    for _ in range(300):
                        if await value(expression):
                            return
                        await asyncio.sleep(0.2)
                    raise AssertionError(f"never: {expression}")

                await call("Network.enable")
                await call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
                await call("Page.navigate", url=url)
                await until("!!document.querySelector('#image input[type=file]')")
                root = (await call("DOM.getDocument", depth=0))["root"]["nodeId"]
                node = (await call("DOM.querySelector", nodeId=root, selector="#image input[type=file]"))["nodeId"]
                await call("DOM.setFileInputFiles", files=[str(image)], nodeId=node)
                await until("!!document.querySelector('#answer .verdict')")
                await until("[...document.querySelectorAll('#answer img')].every((img) => img.complete)")
                text = await value("document.querySelector('#answer').innerText")
                drawn = await value("[...document.querySelectorAll('#answer img')].filter((img) => img.naturalWidth).length")
                wide = await value("document.documentElement.scrollWidth")
                return text, drawn, wide, [address for address in asked if "127.0.0.1" not in address and address.startswith("http")]
    finally:
        browser.terminate()
        browser.wait(30)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_an_image_is_dropped_and_the_answer_read(demo, page, photos, tmp_path, width):
    path = next(photos.rglob("*.png"))
    text, drawn, wide, elsewhere = asyncio.run(dropped(page.local_url, path, width, tmp_path / "profile"))
    want = demo.answer(path)
    title = "Unknown" if not want.answer["is_known"] else want.answer["label"]
    assert text.splitlines()[0] == title and all(item["label"] in text for item in want.answer["classes"])
    assert f"{100 * want.answer['probability']:.1f} %" in text and drawn == len(want.nearest) > 0
    assert wide <= width and elsewhere == []
    (tmp_path / "bad.png").write_bytes(b"nonsense")
    text, drawn, wide, _ = asyncio.run(dropped(page.local_url, tmp_path / "bad.png", width, tmp_path / "profile"))
    assert "bad.png cannot be read" in text and len(text.strip().splitlines()) == 1 and drawn == 0 and wide <= width


@pytest.mark.slow
def test_a_space_runs_as_it_is(demo, photos, tmp_path):
    from gradio_client import Client, handle_file

    folder, port = tmp_path / "space", free_port()
    write_space(folder, demo.classify, "my-clip", top_k=demo.top_k, nearest=demo.nearest)
    path = next(photos.rglob("*.png"))
    # Only what is in the folder: the package that is tested here is not on the path.
    check = "import hf_robustft, runpy, sys; assert hf_robustft.__file__.startswith(sys.path[0]); runpy.run_path('app.py', run_name='__main__')"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); {check}"]
    process = subprocess.Popen(words, cwd=folder, env={**environment, "GRADIO_SERVER_PORT": str(port), "TMPDIR": str(tmp_path)}, stderr=subprocess.PIPE, text=True)
    try:
        assert answers(f"http://127.0.0.1:{port}/", process) == 200
        found = Client(f"http://127.0.0.1:{port}/", verbose=False, download_files=False).predict(handle_file(str(path)), api_name="/predict")
        here = Demo(demo.classify, "my-clip", replace(demo.nearest, names=[None] * len(demo.nearest.names)))
        assert found == here.html(path)
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
def test_ctrl_c_ends_the_command(checkpoint, tmp_path):
    port = free_port()
    words = [sys.executable, "-m", "hf_robustft.cli", "demo", str(checkpoint), "--port", str(port), "--use_cpu", "--disable_tqdm"]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    (tmp_path / "temporary").mkdir()
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert f"http://127.0.0.1:{port}" in process.stdout.readline()
    assert answers(f"http://127.0.0.1:{port}/", process) == 200
    assert list((tmp_path / "temporary").glob("hf_robustft_demo_*"))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "") and "Traceback" not in err
    assert not list((tmp_path / "temporary").glob("hf_robustft_demo_*"))
