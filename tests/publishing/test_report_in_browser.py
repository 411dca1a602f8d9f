# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The page of a report in a browser: nothing is wider than a telephone, tables sort, and no error is raised."""


import pytest
from helpers.browser import BROWSER, seen_in_browser
from helpers.reports import full_report

from hf_robustft.evaluation.error_analysis import by_accuracy
from hf_robustft.publishing.report_page import report_page

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
"""


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1280, 500])
def test_what_a_reader_can_do_with_the_page(tmp_path, width):
    made = full_report(classes=tuple(f"class with a long name {number}" for number in range(12)))
    text = report_page([full_report(model="zero-shot"), made])
    page = tmp_path / "report.html"
    seen = seen_in_browser(page, text, SCRIPT, f"--window-size={width},900")
    part = made.error_analysis["photo"]
    assert seen["errors"] == [] and seen["before"] == by_accuracy(part) == seen["accuracy"]
    assert [part["classes"][name]["images"] for name in seen["images"]] == sorted((row["images"] for row in part["classes"].values()), reverse=True)
    assert max(seen["wide"], seen["opened"]) <= seen["window"] == width
