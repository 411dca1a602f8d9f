# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The page of a comparison: its numbers are those of `comparison.json`, and it is sound whatever was not measured."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers.comparisons import made_up_comparison
from PIL import Image

from hf_robustft.comparison.charts import FONT, Line, Point, line_chart, text_width
from hf_robustft.comparison.html import thumbnails, write_html
from hf_robustft.comparison.summary import summarise
from hf_robustft.data.benchmarks import load_benchmark

VOID = {"meta", "input", "br", "img", "link", "hr"}
#: How numbers are written, again: the page's own code must not vouch for itself.
FORMS = {
    "percent": lambda value: format(value * 100, ".1f"),
    "points": lambda value: format(value * 100, "+.1f"),
    "tenths": lambda value: format(value, ".1f"),
    "nats": lambda value: format(value, ".3f"),
    "nats-change": lambda value: format(value, "+.3f"),
    "count": lambda value: format(value, ",d"),
    "rate": lambda value: re.sub(r"e([-+])0*(\d)", lambda found: "e" + found[1].strip("+") + found[2], f"{value:.0e}"),
}


class Page(HTMLParser):
    """Elements in order as `(tag, attributes, text)`, and the text outside of numbers, code and ticks."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute twice: {attrs}"
        self.elements.append([tag, dict(attrs), ""])
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag, attrs):
        self.elements.append([tag, dict(attrs), ""])

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        for element in self.open:
            element[2] += data
        inside = {element[0] for element in self.open} | {element[1].get("class") for element in self.open}
        if not inside & {"data", "style", "script", "pre", "code", "tick", "title"}:
            self.words.append(data)

    def all(self, tag, **attributes):
        return [item for item in self.elements if item[0] == tag and attributes.items() <= item[1].items()]


def at(summary, pointer):
    for part in pointer.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        summary = summary[int(part) if isinstance(summary, list) else part]
    return summary


def shown(summary, pointer, form):
    value = at(summary, pointer)
    return (
        str(value) if form == "text" else FORMS[form](value).replace("-", "\N{MINUS SIGN}" if form != "rate" else "-")
    )


def place(scale, value):
    low, high, start, end = map(float, scale.split())
    return start + (value - low) / (high - low) * (end - start)


def check_numbers(page, summary):
    """Look each number of the page up in the summary, in texts and in pictures; returns how many there were."""
    texts = page.all("data")
    for _, attributes, text in texts:
        if attributes["data-form"] != "duration":
            assert text == shown(summary, attributes["data-path"], attributes["data-form"]), attributes
        assert attributes["value"] == str(at(summary, attributes["data-path"]))
    points, chart = 0, None
    for tag, attributes, text in page.elements:
        if tag == "svg":
            chart = attributes
        if "data-x" in attributes:
            x, y = at(summary, attributes["data-x"]), at(summary, attributes["data-y"])
            spots = place(chart["data-x-scale"], x), place(chart["data-y-scale"], y)
            assert list(map(float, attributes["data-at"].split())) == pytest.approx(spots, abs=0.02)
            assert shown(summary, attributes["data-x"], chart["data-x-form"]) in text
            assert shown(summary, attributes["data-y"], chart["data-y-form"]) in text
            points += 1
        if "data-bar" in attributes:
            accuracy = at(summary, attributes["data-bar"])
            assert float(attributes["data-at"]) == pytest.approx(place(chart["data-y-scale"], accuracy), abs=0.02)
            assert shown(summary, attributes["data-bar"], "percent") in text
            points += 1
        if "data-change" in attributes:
            change = at(summary, attributes["data-change"])
            assert float(attributes["width"]) == pytest.approx(
                75 * abs(change) / float(attributes["data-reach"]), abs=0.006
            )
            points += 1
        if "data-from-x" in attributes:
            x, y = (at(summary, attributes[f"data-from-{axis}"].rpartition("/")[0]) for axis in "xy")
            spots = [[place(chart[f"data-{axis}-scale"], value) for value in of] for axis, of in (("x", x), ("y", y))]
            drawn = [list(map(float, spot.split())) for spot in attributes["d"].removeprefix("M").split("L")]
            assert np.transpose(drawn) == pytest.approx(np.array(spots), abs=0.02)
            points += 1
    # Whatever has decimals is a number of the summary, or a tick.
    assert not re.findall(r"\d\.\d", " ".join(page.words))
    return len(texts), points


def check_sound(text):
    """A page that is well formed, needs no network and says what its pictures and tables are; returns it parsed."""
    page = Page(text)
    assert len(page.all("script")) == len(page.all("style")) == len(page.all("h1")) == 1
    for tag, attributes, _ in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:image/")), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    assert not re.search(r"url\(|@import|https?://", text)
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["href"].lstrip("#") for _, attributes, _ in page.all("a")} <= set(ids)
    assert len(page.all("table")) == len(page.all("caption"))
    for table in re.findall("<table.*?</table>", text, re.S):
        rows = re.findall("<tr.*?</tr>", table, re.S)
        assert len({len(re.findall("<t[hd][ >]", row)) for row in rows}) == 1, rows
    for chart in re.findall("<svg.*?</svg>", text, re.S):
        drawing = ElementTree.fromstring(chart)
        assert "aria-label" in drawing.attrib or "aria-hidden" in drawing.attrib
        assert "nan" not in chart.lower()
    words = " ".join(page.words)
    assert not re.search(r"\b(None|nan|Undefined|Node)\b", words)
    return page


def made(tmp_path, change=None, **arguments):
    summary = summarise(made_up_comparison(**arguments))
    if change is not None:
        change(summary)
    # As it is read from the file, whose order and keys are those of JSON.
    summary = json.loads(json.dumps(summary))
    return summary, check_sound(write_html(summary, tmp_path / "comparison.html").read_text(encoding="utf-8"))


def test_every_number_is_that_of_the_summary(tmp_path):
    summary, page = made(tmp_path, methods=("flyp", "carot", "tracer"), draws=20)
    texts, points = check_numbers(page, summary)
    assert texts > 150 and points > 100
    # A changed number is not on the page.
    summary["candidates"][1]["shift_mean"]["accuracy"]["mean"] += 0.01
    with pytest.raises(AssertionError):
        check_numbers(page, summary)


HOSTILE = (
    '"><script>alert(1)</script>',
    "'; DROP--",
    "{{ 7 * 7 }}",
    "& <b>",
    "\N{HEBREW LETTER ALEF}\N{CJK UNIFIED IDEOGRAPH-732B}" * 9,
    "x" * 300,
)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"shifts": {}}, "No shifted set was measured"),
        ({"open_sets": ()}, "No set of unseen classes was measured"),
        ({"zero_shot": False}, "The zero-shot model was not measured"),
        ({"seeds": (0,)}, "Train with more seeds"),
        ({"shifts": {}, "open_sets": (), "zero_shot": False, "seeds": (0,), "rates": (1e-3,), "methods": ("carot",)}, "no-rule"),
        ({"classes": ("cat", "dog", "owl")}, ""),
        ({"classes": tuple(f"class {index}" for index in range(1000))}, "1,000"),
        ({"methods": tuple(f"method {index}" for index in range(18)), "seeds": (0,)}, "method 17, 3e-4"),
        ({"methods": HOSTILE, "shifts": dict.fromkeys((name.replace(" ", "").replace("/", "") for name in HOSTILE), 0.4)}
         | {"classes": HOSTILE, "seeds": (0,), "rates": (1e-3,)}, HOSTILE[0]),
    ],
)  # fmt: skip
def test_the_page_is_sound_and_says_what_is_missing(tmp_path, arguments, said):
    summary, page = made(tmp_path, **{"rates": (3e-4,), "methods": ("flyp", "carot"), "draws": 20, **arguments})
    check_numbers(page, summary)
    words = " ".join(text for tag, _, text in page.elements if tag == "body")
    assert said in words or said == "no-rule"
    # No chart, table or paragraph is empty.
    assert not [item for item in page.all("p") if not item[2].strip()]
    assert all(re.search("[0-9]", table) for _, _, table in page.all("table"))
    assert all("data-x-scale" not in chart or text.strip() for tag, chart, text in page.elements if tag == "svg")


def test_the_heading_names_zero_shot_where_that_is_better(tmp_path):
    def heading(**winner):
        changes = {"better": [], "zero_shot_is_better": False, **winner}
        _, page = made(tmp_path, lambda summary: summary["winner"].update(changes), methods=("flyp", "carot"), rates=(1e-3,), seeds=(0,), draws=20)
        (found,) = page.all("p", **{"class": "name"})
        return " ".join(found[2].split()), "better" in "".join(text for _, attributes, text in page.elements if attributes.get("class") == "warning")

    said, warned = heading(zero_shot_is_better=True, candidate="FLYP, 1e-3")
    assert said.startswith("Zero-shot is better under shift than FLYP, 1e-3") and warned
    said, warned = heading(better=["CaRot, 1e-3"], candidate="FLYP, 1e-3")
    assert said.startswith("FLYP, 1e-3") and not warned


def test_labels_of_lines_do_not_cover_each_other():
    lines = [
        Line(
            f"method {number}",
            [Point(0.8 + 0.001 * number, 0.4 + 0.0005 * number + 0.01 * step, "") for step in range(3)],
            number,
        )
        for number in range(6)
    ]
    chart = line_chart(lines, "x", "y", "percent", "percent")
    boxes = []
    for line in chart.lines:
        if line.label is not None:
            width = text_width(line.label["text"])
            left = line.label["x"] - {"start": 0, "middle": width / 2, "end": width}[line.label["anchor"]]
            boxes.append((left, line.label["y"] - 0.8 * FONT, left + width, line.label["y"] + 0.2 * FONT))
            assert 0 <= left and left + width <= chart.width
    assert len(boxes) >= 4
    for number, one in enumerate(boxes):
        assert not [
            two
            for two in boxes[:number]
            if one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]
        ]


def test_small_pictures_are_of_the_rows_that_are_named(tmp_path):
    shift = load_benchmark("emoji_shift", "twemoji")
    mistakes = [{"set": "twemoji", "row": 7}, {"set": "twemoji", "row": 9}, {"set": "elsewhere", "row": 0}, {"set": "twemoji", "row": 10**9}]
    found = thumbnails(mistakes, [shift], size=24)
    assert set(found) == {("twemoji", 7), ("twemoji", 9)}
    for (_, row), uri in found.items():
        kind, _, data = uri.partition(",")
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        assert kind == "data:image/webp;base64" and max(picture.size) == 24
        whole = shift.load()[row]["image"].convert("RGB").resize(picture.size, Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(whole, float) - np.asarray(picture.convert("RGB"), float)).mean() < 12


def test_a_picture_that_can_no_longer_be_read_is_named_and_left_out(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (30, 20), (number * 90, 10, 10)).save(tmp_path / "images" / name / f"{number}.png")
    benchmark = load_benchmark(tmp_path / "images", "train", name="own")
    rows = len(benchmark.load())
    (tmp_path / "images" / "cat" / "1.png").write_bytes(b"cut off since")
    with pytest.warns(UserWarning, match="1.png") as caught:
        found = thumbnails([{"set": "own", "row": row} for row in range(rows)], [benchmark])
    assert len(found) == rows - 1 == 3 and len(caught) == 1


def test_what_each_image_says_is_on_the_page(tmp_path):
    classes = tuple(f"class {number}" for number in range(8))
    arguments = {
        "methods": ("flyp", "carot"),
        "rates": (1e-3,),
        "seeds": (0,),
        "draws": 20,
        "classes": classes,
        "shifts": {"sketch": 0.5},
    }
    summary, page = made(tmp_path, **arguments, predictions=True)
    texts, points = check_numbers(page, summary)
    assert points > 100 and page.all("rect", **{"class": "up"}) and page.all("rect", **{"class": "down"})
    assert {"Classes that gained and lost", "What was forgotten", "The worst mistakes"} <= {
        text for _, _, text in page.all("h2")
    }
    # Which score is chosen, and what both give on the other half.
    score = summary["score_choice"]["zero-shot"]["unseen"]["chosen"]
    assert page.all("data", **{"data-path": f"/score_choice/zero-shot/unseen/scores/{score}/shifts_auroc/mean"})
    worst = summary["worst_mistakes"][0]
    assert not page.all("img") and worst["predicted"] in page.all("ul", **{"class": "mistakes"})[0][2]
    picture = "data:image/webp;base64,AAAA"
    text = write_html(summary, tmp_path / "comparison.html", {(worst["set"], worst["row"]): picture}).read_text(
        encoding="utf-8"
    )
    assert [attributes["src"] for _, attributes, _ in check_sound(text).all("img")] == [picture]
