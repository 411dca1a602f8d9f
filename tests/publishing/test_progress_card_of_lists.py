# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The card of a run that goes on shows what was measured of lists of labels, and says where an image adapter is needed."""

import json

from helpers import CLASSES, TEMPLATES, tiny_processor
from helpers.cards import tables
from helpers.label_lists import listed

from hf_robustft import Evaluator
from hf_robustft.modeling.kept_adapter import FACTS
from hf_robustft.publishing.metadata import write_robustft_json
from hf_robustft.publishing.progress_card import write_progress_card

RUN = {"title": "clip", "method": "ft", "step": 3, "total_steps": 9}


def test_lists_of_labels_have_their_metrics(tiny_clip, tmp_path):
    data = listed(n=24, name="test", role="id")
    report = Evaluator([data], tiny_processor(), progress=False).evaluate(tiny_clip)
    found = report.multi_label["test"]
    path = write_progress_card(tmp_path, report=report, evaluated_at=3, **RUN)
    (table,) = tables(path)
    assert table[0] == ["Set", "Images", "mAP (%)", "F1 (%)", "F1 micro (%)", "ECE (%)"]
    assert table[1][1] == "24" and table[1][2].startswith(f"{100 * found['map']:.1f}")
    assert "Nothing was evaluated" not in path.read_text() and "At step 3:" in path.read_text()
    assert "Nothing was evaluated yet." in write_progress_card(tmp_path / "none", **RUN).read_text()


def test_an_image_adapter_is_spoken_of(tmp_path):
    write_robustft_json(tmp_path, method="croft", class_names=CLASSES, templates=TEMPLATES, settings={}, adapters=FACTS)
    text = write_progress_card(tmp_path, **RUN).read_text()
    assert "without its image adapter" in " ".join(text.split()) and "is a plain model" not in text
    assert json.loads((tmp_path / "robustft.json").read_text())["adapters"] == FACTS
    assert "is a plain model" in write_progress_card(tmp_path / "plain", **RUN).read_text()
