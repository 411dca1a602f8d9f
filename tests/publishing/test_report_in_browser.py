# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The page of a report in a browser: nothing is wider than a telephone, tables sort, and no error is raised."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest
from helpers.reports import full_report

from hf_robustft.evaluation.error_analysis import by_accuracy
from hf_robustft.publishing.report_page import report_page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SCRIPT = """
const seen = {errors, wide: document.documentElement.scrollWidth, window: innerWidth};
const table = document.querySelector("#errors table.sortable"), heads = [...table.tHead.rows[0].cells];
const names = () => [...table.tBodies[0].rows].map((row) => row.cells[0].innerText);
const click = (text) => { heads.find((head) => head.innerText.startsWith(text)).querySelector("button").click(); return names(); };
seen.before = names();
seen.accuracy = click("Accuracy");
seen.images = click("Images");
document.querySelectorAll("details").forEach((item) => { item.open = true; });
seen.opened = document.documentElement.scrollWidth;
const result = document.createElement("script");
result.type = "application/json";
result.id = "seen";
result.textContent = JSON.stringify(seen);
document.body.append(result);
"""


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1280, 500])
def test_what_a_reader_can_do_with_the_page(tmp_path, width):
    made = full_report(classes=tuple(f"class with a long name {number}" for number in range(12)))
    watched = '<script>const errors = []; addEventListener("error", (event) => errors.push(event.message));</script>'
    text = report_page([full_report(model="zero-shot"), made])
    page = tmp_path / "report.html"
    page.write_text(text.replace("<style>", f"{watched}<style>", 1).replace("</body>", f"<script>{{{SCRIPT}}}</script></body>"), encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    seen = json.loads(unescape(re.search('id="seen">(.*?)</script>', done.stdout, re.S)[1]))
    part = made.error_analysis["photo"]
    assert seen["errors"] == [] and seen["before"] == by_accuracy(part) == seen["accuracy"]
    assert [part["classes"][name]["images"] for name in seen["images"]] == sorted((row["images"] for row in part["classes"].values()), reverse=True)
    assert max(seen["wide"], seen["opened"]) <= seen["window"] == width
