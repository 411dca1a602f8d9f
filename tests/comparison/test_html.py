# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The page of a comparison: its numbers are those of `comparison.json`, and it is sound whatever was not measured."""

import json
import re

import pytest
from helpers.comparisons import made_up_comparison
from helpers.pages import check_numbers, check_sound

from hf_robustft.comparison.html import write_html
from hf_robustft.comparison.summary import summarise
from hf_robustft.evaluation.charts import FONT, Line, Point, line_chart, text_width


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


def test_no_line_ends_within_a_rate(tmp_path):
    _, page = made(tmp_path, methods=("flyp", "carot"), rates=(1e-4, 3e-4), seeds=(0,), draws=20)
    rates = sum(len(re.findall(r"\de-\d", text)) for _, attributes, text in page.all("data") if attributes["data-form"] != "rate")
    whole = [text for _, _, text in page.all("span", **{"class": "whole"})]
    assert len([text for text in whole if text in ("1e-4", "3e-4")]) >= rates > 10


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


SMALL = {"methods": ("flyp", "carot"), "rates": (1e-3,), "seeds": (0,), "draws": 20, "shifts": {"sketch": 0.5}} | {
    "classes": tuple(f"class {number}" for number in range(8))
}


def test_lines_of_one_picture_have_their_own_colours_without_zero_shot(tmp_path):
    summary, page = made(tmp_path, **SMALL, predictions=True, zero_shot=False)
    labels = {row["label"] for row in summary["candidates"]}
    drawn = {attributes["data-series"]: attributes["class"] for tag, attributes, _ in page.elements if tag == "g" and attributes.get("data-series") in labels}
    assert set(drawn) == labels and len(set(drawn.values())) == 2


def test_of_unseen_classes_that_cannot_be_halved_no_score_is_said_to_be_chosen(tmp_path):
    def first_alone(summary):
        for of in summary["score_choice"].values():
            del of["strange"]

    _, page = made(tmp_path, first_alone, **SMALL, predictions=True, open_sets=("unseen", "strange"))
    (section,) = page.all("section", id="unknown")
    assert section[2].count("Which score to use") == 1 and section[2].count("on the test half") == 1


def test_the_table_has_the_differences_of_what_decides_and_a_table_at_equal_accuracy_its_unseen_classes(tmp_path):
    arguments = {"methods": ("flyp", "carot"), "seeds": (0,), "draws": 20}
    for shifts, mean in (({}, "id_mean"), ({"sketch": 0.5}, "shift_mean")):
        _, page = made(tmp_path, **arguments, shifts=shifts, open_sets=("strange", "odd"))
        places = [attributes["data-path"] for _, attributes, _ in page.all("data") if attributes["data-path"].startswith("/candidates/0/against_zero_shot")]
        assert f"/candidates/0/against_zero_shot/{mean}/accuracy/mean" in places
        captions = [text for _, _, text in page.all("caption") if "energy score" in text]
        assert captions == ["AUROC in percent, energy score, shifted images against strange, at accuracies in distribution in percent."] * bool(shifts)


def test_what_was_forgotten_is_not_said_to_be_nothing_where_no_class_can_be_judged(tmp_path):
    def section(changes, rule=True):
        def change(summary):
            summary["forgotten"][summary["winner"]["candidate"]].update(changes)
            if not rule:
                summary["rule"] = None

        _, page = made(tmp_path, change, **SMALL, predictions=True)
        return " ".join(page.all("section", id="forgotten")[0][2].split())

    said = section({"judged": 0, "by_chance": 0.0, "classes": []})
    assert "Nothing is known of single classes" in said and "No class fell" not in said and "by chance" not in said.partition("What each method")[0]
    said = section({"judged": 1, "by_chance": 0.025, "classes": []}, rule=False)
    assert "No class fell" in said and "Of 1 class that can be judged 0 fell" in said
    # Without a rule nothing chose the rates.
    assert "which no rule chose" in said and "that was chosen for it" not in said


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
