# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The page of a watch in a browser: nothing is wider than a telephone, all pictures are there, and the lines are the numbers of the report."""

from html import escape

import pytest
import torch
from helpers.browser import BROWSER, seen_in_browser
from PIL import Image

from hf_robustft.deployment.watch_files import Watched
from hf_robustft.deployment.watch_page import as_html
from hf_robustft.deployment.watching import STYLE, Reference, Stream, judge

#: The page itself lets no script run.
SCRIPT = """
const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
const seen = {errors, wide: root.scrollWidth, window: root.clientWidth, title: page.querySelector("h1").innerText};
seen.rows = [...page.querySelectorAll("tbody tr")].map((row) => [...row.cells].map((cell) => cell.innerText));
seen.drawn = [...page.images].filter((image) => image.naturalWidth).length;
seen.lines = [...page.querySelectorAll("polyline")].map((line) => [...line.points].map((point) => [point.x, point.y]));
seen.limit = page.querySelector('line[stroke="#c62828"]').y1.baseVal.value;
const right = page.querySelector("main").getBoundingClientRect().right + 0.5;
seen.outside = [...page.querySelectorAll("main *")].filter((item) => item.getBoundingClientRect().right > right).map((item) => [item.getBoundingClientRect().right - right, item.outerHTML.slice(0, 80)]);
"""
CLASSES = torch.eye(32)[:8]


def measured(seed, count, move):
    draw = torch.Generator().manual_seed(seed)
    rows = CLASSES[torch.randint(8, (count,), generator=draw)] + 0.05 * torch.randn(count, 32, generator=draw)
    rows[:, -1] += move
    embeds = torch.nn.functional.normalize(rows, dim=1)
    score, best = (10 * embeds.double() @ CLASSES.double().T).max(1)
    return [f"class with a long name {index}" for index in best.tolist()], embeds, score, (score - 5).sigmoid()


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_what_a_reader_sees(tmp_path, width):
    reference = Reference.of([str(i) for i in range(100)], *measured(0, 100, 0.0), [True] * 100, seed=0)
    watched = Watched({"MODEL": "my-clip", "--stream": "/srv/" + 40 * "deep/"}, reference, Stream(torch.zeros(0, 32)))
    labels, *numbers = measured(1, 60, 0.8)
    names = [f"{'camera' * 12}{i}.png" for i in range(60)]
    for name in names:
        Image.new("RGB", (30, 20), "red").save(tmp_path / name)
    watched.stream.add(reference, names, labels, [i % 2 == 0 for i in range(60)], *numbers)
    watched.broken["x" * 200] = {"error": "the file is empty", "size": 0, "time": 0, "after": 3}
    judgement = judge(reference, watched.stream, 0.01, 0, [3])
    report = judgement.report
    page = escape(as_html(judgement, watched, tmp_path))
    outer = f'<html><style>iframe {{ border: 0 }}</style><body><iframe width={width} height=900 srcdoc="{page}"></iframe></body></html>'
    seen = seen_in_browser(tmp_path / "outer.html", outer, SCRIPT, "--window-size=1400,1000")
    assert seen["errors"] == [] and seen["title"] == f"Alarm: {STYLE}" and seen["drawn"] == 12
    assert width - 20 <= seen["window"] <= width and seen["wide"] <= seen["window"] and seen["outside"] == []
    # The axis by two heights that are known: each line begins with 1, and the alarm.
    for (name, facts), points in zip(report["statistics"].items(), seen["lines"], strict=True):
        unit = (points[0][1] - seen["limit"]) / report["log10_evidence_of_an_alarm"]
        assert (points[0][1] - points[-1][1]) / unit == pytest.approx(facts["log10_evidence"], abs=1 / unit), name
        assert (points[0][1] - min(y for _, y in points)) / unit == pytest.approx(facts["log10_highest"], abs=1 / unit), name
    rows = {first: rest for first, *rest in seen["rows"]}
    said = {name: facts for name, facts in report["statistics"].items() if facts["alarm_at_image"]}
    assert said and [row[2] for row in rows.values() if len(row) == 4 and row[2]] == [str(facts["alarm_at_image"]) for facts in said.values()]
    guess, part = report["estimated_accuracy"]["all"], report["estimated_accuracy"]["accepted"]
    assert rows["Estimated accuracy"][1] == f"{100 * guess['accuracy']:.1f} ± {100 * guess['standard_error']:.1f} %"
    assert rows["Of what is accepted"][1] == f"{100 * part['accuracy']:.1f} ± {100 * part['standard_error']:.1f} %" and part["images"] == 30
    assert rows["Accepted by the detector"] == ["100.0 %", "50.0 %", "50.0 %"]
