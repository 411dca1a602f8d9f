# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The page of a comparison in a browser: its tables sort, its marks say their numbers, and one can do without a mouse."""

import re

import pytest
from helpers.browser import BROWSER, seen_in_browser
from helpers.comparisons import made_up_comparison

from hf_robustft.comparison.html import write_html
from hf_robustft.comparison.summary import summarise

#: What is done to the page, and what is seen of it.
SCRIPT = """
const seen = {}, table = document.querySelector("#candidates table.sortable"), heads = [...table.tHead.rows[0].cells];
const names = () => [...table.tBodies[0].rows].map((row) => row.cells[0].innerText);
const sorts = () => heads.map((head) => head.getAttribute("aria-sort"));
const column = (text) => heads.findIndex((head) => head.innerText.replace(/\\s+/g, " ").startsWith(text));
const click = (text) => { heads[column(text)].querySelector("button").click(); return [names(), sorts()[column(text)], sorts().filter(Boolean).length]; };
seen.before = names();
seen.buttons = heads.map((head) => head.querySelector("button").tabIndex);
seen.accuracy = click("Accuracy % under shift");
seen.again = click("Accuracy % under shift");
seen.nll = click("NLL under shift");
seen.difference = click("Difference");
seen.candidate = click("Candidate");
seen.seeds = click("Seeds");
const [changes, forgot] = ["Difference", "Classes that fell"].map((text) => [...document.querySelectorAll("#classes table, #forgotten table")].find((item) => item.innerText.includes(text)));
seen.pictures = [...changes.tHead.rows[0].cells].map((head) => Boolean(head.querySelector("button")));
[...forgot.tHead.rows[0].cells].find((head) => head.innerText.startsWith("Classes that fell")).querySelector("button").click();
seen.forgot = [...forgot.tBodies[0].rows].map((row) => Number(row.cells[2].innerText));
const count = () => [...table.tBodies[0].rows].filter((row) => getComputedStyle(row).display !== "none").length;
document.querySelector("#few").click();
seen.few = count();
document.querySelector("#few").click();
seen.all = count();
const tip = document.querySelector("#tip"), said = () => [tip.hidden, tip.innerText];
const at = (mark, type, pointerType) => mark.dispatchEvent(new PointerEvent(type, { clientX: 5, clientY: 5, bubbles: type !== "pointerleave", pointerType }));
const bar = document.querySelector("#calibration g[data-tip]"), point = document.querySelector("#frontier g.point");
seen.hidden = said();
at(bar, "pointermove", "mouse");
seen.bar = said();
at(bar, "pointerleave", "mouse");
seen.left = said();
at(point, "pointerdown", "touch");
at(point, "pointerleave", "touch");
seen.touched = [...said(), point.dataset.tip];
document.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
seen.escaped = said();
seen.errors = errors;
"""


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_what_a_reader_can_do_with_the_page(tmp_path):
    comparison = made_up_comparison(methods=("flyp", "carot", "tracer"), seeds=(0, 1), draws=20, predictions=True)
    # One seed of a candidate is missing, and one of another.
    comparison.runs = [run for run in comparison.runs if (run.candidate.label, run.seed) not in {("FLYP, 3e-4", 1), ("TRACER, 1e-4", 0)}]
    summary = summarise(comparison)
    for number, of in zip((3, 1, 2), summary["forgotten"].values(), strict=True):
        of["classes"] = [summary["per_class"][summary["winner"]["candidate"]][0]] * number
    page = write_html(summary, tmp_path / "comparison.html")
    text = page.read_text(encoding="utf-8")
    seen = seen_in_browser(page, text, SCRIPT)

    rows = [summary["baseline"], *summary["candidates"]]
    labels = [row["label"] for row in rows]

    def by(value, descending=False):
        known = sorted((row for row in rows if value(row) is not None), key=value, reverse=descending)
        return [row["label"] for row in [*known, *(row for row in rows if value(row) is None)]]

    def gain(row):
        return row["against_zero_shot"]["shift_mean"]["accuracy"]["mean"] if "against_zero_shot" in row else None

    assert seen["errors"] == [] and seen["before"] == labels and set(seen["buttons"]) == {0}
    assert seen["accuracy"] == [by(lambda row: row["shift_mean"]["accuracy"]["mean"], True), "descending", 1]
    assert seen["again"] == [by(lambda row: row["shift_mean"]["accuracy"]["mean"]), "ascending", 1]
    # What is better when it is lower begins with the lowest; the zero-shot model, which does not differ from itself, comes last.
    assert seen["nll"] == [by(lambda row: row["shift_mean"]["nll"]["mean"]), "ascending", 1]
    assert seen["difference"] == [by(gain, True), "descending", 1] and seen["difference"][0][-1] == "zero-shot"
    # Counts are numbers too, and what is drawn has no order.
    assert set(seen["seeds"][0][-3:-1]) == {"FLYP, 3e-4", "TRACER, 1e-4"} and seen["seeds"][0][-1] == "zero-shot" and seen["seeds"][1:] == ["descending", 1]
    assert seen["forgot"] == [1, 2, 3] and seen["pictures"] == [True, True, False, True, True, True]
    # Rates are in order of their size.
    assert seen["candidate"][0] == [f"{name}, {rate}" for name in ("CaRot", "FLYP", "TRACER") for rate in ("1e-4", "3e-4", "1e-3")] + ["zero-shot"]
    assert seen["few"] == 1 + sum(row["chosen_by_rule"] for row in summary["candidates"]) < seen["all"] == len(rows)
    assert seen["hidden"][0] and not seen["bar"][0] and seen["left"][0] and seen["escaped"][0]
    assert re.fullmatch(r"\d+ images\n[\d.]+ % right, [\d.]+ % sure", seen["bar"][1])
    # A finger that is lifted does not take the numbers away.
    assert seen["touched"][:2] == [False, seen["touched"][2]]
