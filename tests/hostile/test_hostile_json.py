# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""JSON files that are nested beyond any reader, or hold other kinds of value than they should: one line, no traceback."""

import json

import pytest
from helpers.finished import finished

from hf_robustft.modeling.metadata import METADATA_FILE, load_robustft_json


@pytest.mark.parametrize("opening, closing", [("[", "]"), ('{"a":', "}")])
def test_deep_nesting_is_named(tmp_path, opening, closing):
    (tmp_path / METADATA_FILE).write_text(opening * 100_000 + "1" + closing * 100_000)
    with pytest.raises(ValueError, match=f"{METADATA_FILE} is not JSON"):
        load_robustft_json(tmp_path)


@pytest.mark.parametrize(
    "name, value",
    [
        *(("templates", value) for value in ([1], [None], ["a {}", {}], [["a {}"]], [b"".hex()])),
        *(("class_names", value) for value in ([1, 2, 3, 4], [{}, [], None, "x"], ["a", "b", "c", None])),
        *(("label_names", value) for value in ([1, 2, 3, 4], [{}, [], None, "x"])),
    ],
)
def test_names_and_templates_are_texts(tmp_path, name, value):
    folder = finished(tmp_path / "run")
    facts = json.loads((folder / METADATA_FILE).read_text()) | {name: value}
    (folder / METADATA_FILE).write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=METADATA_FILE):
        load_robustft_json(folder)
