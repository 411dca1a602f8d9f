# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a page must be, whatever is on it: well formed, in need of nothing, with the numbers of its file."""

import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.stats import binomtest

VOID = {"meta", "input", "br", "img", "link", "hr"}
#: How numbers are written, again: the page's own code must not vouch for itself.
FORMS = {
    "percent": lambda value: format(value * 100, ".1f"),
    "points": lambda value: format(value * 100, "+.1f"),
    "tenths": lambda value: format(value, ".1f"),
    "nats": lambda value: format(value, ".3f"),
    "nats-change": lambda value: format(value, "+.3f"),
    "count": lambda value: format(value, ",d"),
    "share": lambda value: format(value * 100, ".0f"),
    "number": lambda value: format(value, ".4g"),
    "of-nats": lambda value: format(100 * math.exp(-value), ".2g"),
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


#: What `evaluation.json` counts of a class, in one text.
COUNTS = ("images", "right", "predicted", "confidence")


def numbers(text):
    """The numbers of a text, `None` where there is none."""
    return [None if word == "-" else float(word) if set(word) & set(".en") else int(word) for word in text.split()]


def at(summary, pointer):
    for part in pointer.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(summary, str):
            summary, part = numbers(summary), COUNTS.index(part) if part in COUNTS else part
        summary = summary[int(part) if isinstance(summary, list) else part]
    return summary


def rate_of(text, what):
    """What follows from the counts of a class, by other means than the package's."""
    images, right, predicted, confidence = numbers(text)
    if what in ("precision", "gap"):
        return (confidence if what == "gap" else 0) + (right / predicted) * (-1 if what == "gap" else 1)
    of = predicted if what.startswith("precision") else images
    if what == "accuracy":
        return right / images
    ends = binomtest(right, of).proportion_ci(0.95, "exact")
    return ends.low if what.endswith("/0") else ends.high


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
        if "data-of" in attributes:
            value = rate_of(at(summary, attributes["data-path"]), attributes["data-of"])
            assert float(attributes["value"]) == pytest.approx(value, abs=1e-9), attributes
            assert text == FORMS[attributes["data-form"]](float(attributes["value"])).replace("-", "\N{MINUS SIGN}")
            continue
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
            x, y = (numbers(of) if isinstance(of, str) else of for of in (x, y))
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
