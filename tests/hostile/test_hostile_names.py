# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Files of names and templates with signs that other programs take for the end of a line, and with what is not text."""

import csv

import pytest
from helpers.reports import result

from hf_robustft.comparison.runs import _sweep
from hf_robustft.data.prompts import check_templates, load_class_names, load_templates
from hf_robustft.evaluation.alpha_sweep import AlphaSweep
from hf_robustft.evaluation.report import SWEEP_TABLE, EvaluationReport


def test_a_name_ends_where_its_line_ends(tmp_path):
    file = tmp_path / "names.txt"
    for inside in "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e":
        for end in ("\n", "\r\n", "\r"):
            file.write_bytes(f"\ufeffone{inside}two{end}three{end}".encode())
            names, labels = load_class_names(file)
            # What is not a letter is a blank in a sentence.
            assert (names, labels) == (("one two", "three"), None), (inside, end)
    file.write_bytes("a photo of\u2028a {}.\r\nthe {}\u0085!\r\n".encode())
    assert load_templates(file) == ("a photo of\u2028a {}.", "the {}\u0085!")


@pytest.mark.parametrize("content", [b"cat\0dog\n", b"c\0a\0t\0\n\0", b"\xff\xfec\0a\0t\0", b"caf\xe9\n", b"\xed\xa0\x80"])
def test_what_is_not_utf8_is_named(tmp_path, content):
    (tmp_path / "names.txt").write_bytes(content)
    for reader in (load_class_names, load_templates):
        with pytest.raises(ValueError, match=r"names\.txt.*not UTF-8"):
            reader(tmp_path / "names.txt")


@pytest.mark.parametrize("template", [1, None, {}, b"a {}", ["a {}"], 0.5])
def test_a_template_that_is_not_a_text_is_named(template):
    with pytest.raises(ValueError, match="template 1 .*not a text"):
        check_templates(["a {}.", template])


def test_a_name_in_a_table_is_not_a_formula(tmp_path):
    names = ("=1+1", "+cmd|' /C calc'!A0", "-2", "@SUM(A1)", "photo")
    reports = {
        alpha: EvaluationReport("m", {name: result(name, "id" if name == "photo" else "shift") for name in names})
        for alpha in (0.0, 1.0)
    }
    AlphaSweep(reports).save(tmp_path)
    with open(tmp_path / SWEEP_TABLE, newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell[:1] in "=+-@" and cell and not cell.replace(".", "").isdecimal()]
    # The names are read as they are.
    assert set(_sweep(tmp_path / SWEEP_TABLE)[1.0]) == {"temperature", *reports[1.0].metrics()}
