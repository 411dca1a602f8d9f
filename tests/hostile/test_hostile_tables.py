# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Names in every file that people open: a spreadsheet takes none for a formula, a page or a card none for markup."""

import csv
import re

import pytest
from helpers.comparisons import made_up_comparison
from helpers.hostile_names import HOSTILE, TAGS, Reader
from helpers.reports import result
from markdown_it import MarkdownIt

from hf_robustft.cli.each import SUMMARY_FILE, write_summary
from hf_robustft.comparison.html import write_html
from hf_robustft.comparison.output import MARKDOWN_FILE, PAGE_FILE, write_comparison
from hf_robustft.comparison.summary import load_comparison, summarise
from hf_robustft.evaluation.alpha_sweep import AlphaSweep
from hf_robustft.evaluation.report import SWEEP_TABLE, EvaluationReport
from hf_robustft.files import read_csv, write_csv
from hf_robustft.publishing.claims import FAILS, Claim
from hf_robustft.publishing.verification import Verification

FORMULAS = ("=cmd()", "=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1+1")
NAMES = (*FORMULAS, "<script>alert(1)</script>", "a|b", "one\ntwo", "abc\u202edcba\u202c", "a\u2028b", "'=1", "owner/<b>name")
#: Where files of text that people open are written, and the function through which every word from outside goes.
WRITERS = {
    "files.py": "write_csv",
    "evaluation/alpha_sweep.py": "write_csv",
    "cli/each.py": "write_csv",
    "comparison/output.py": "markdown_table",
    "comparison/html.py": "html.environment",
    "deployment/answer_tables.py": "write_csv",
    "deployment/export.py": None,
    "deployment/space_files.py": "safe_dump",
    "deployment/watch_files.py": None,
    "publishing/card_file.py": None,
    "publishing/eval_results.py": "safe_dump",
    "publishing/report_page.py": "html.environment",
    "publishing/verification.py": "markdown_text",
}
#: Files for programs alone, which JSON and parquet keep as they are.
FOR_PROGRAMS = {
    *("evaluation/report.py", "evaluation/predictions.py", "evaluation/figures.py", "training/checkpoint_files.py", "comparison/schedule.py"),
    "deployment/answer_files.py",
    *("comparison/summary.py", "cli/describe.py", "modeling/metadata.py", "modeling/tensor_files.py", "modeling/feature_cache.py"),
}


def cells(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [cell for row in csv.reader(file) for cell in row]


def is_formula(cell):
    return cell.startswith(tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20")) and not re.fullmatch(r"-?[0-9.e-]+", cell)


def test_every_writer_is_known(repository):
    found = {}
    for file in sorted((repository / "hf_robustft").rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if re.search(r"\b(write_whole|whole_file|write_csv)\(", text):
            found[file.relative_to(repository / "hf_robustft").as_posix()] = text
        if file.name != "files.py":
            assert not re.search(r"\bcsv\.(writer|DictWriter)\b", text), f"{file.name}: tables are written by write_csv"
    assert set(found) == set(WRITERS) | FOR_PROGRAMS
    assert "autoescape=True" in (repository / "hf_robustft" / "evaluation" / "html.py").read_text(encoding="utf-8")
    assert all(name is None or name in found[place] for place, name in WRITERS.items())


def test_no_cell_of_a_table_is_a_formula(tmp_path):
    path = write_csv(tmp_path / "a.csv", [NAMES, [*NAMES[:-2], -0.5, None], range(len(NAMES))])
    assert not [cell for cell in cells(path) if is_formula(cell)]
    assert list(read_csv(path)[0]) == [name if name != "'=1" else "=1" for name in NAMES] and "-0.5" in cells(path)
    path = write_summary(tmp_path, [{"suite": name, f"auroc_{name}": 0.5} for name in NAMES])
    assert path.name == SUMMARY_FILE and not [cell for cell in cells(path) if is_formula(cell)]
    names = [name for name in NAMES if "\n" not in name]
    of_alpha = {alpha: EvaluationReport("m", {name: result(name, "id") for name in names}) for alpha in (0.0, 1.0)}
    AlphaSweep(of_alpha).save(tmp_path)
    assert not [cell for cell in cells(tmp_path / SWEEP_TABLE) if is_formula(cell)]


@pytest.fixture(scope="module")
def made():
    """A summary in which "qqq" stands for a name of each kind."""
    small = {"rates": (1e-3,), "seeds": (0,), "shifts": {"qqq set": 0.5}, "open_sets": ("qqq unseen",), "classes": ("qqq class", "b", "c")}
    summary = summarise(made_up_comparison(methods=("flyp", "qqq"), **small, predictions=True, draws=20), command="hf-robustft compare qqq")
    return summary | {"notes": ["qqq is left out."], "hardware": ["qqq"]}


@pytest.fixture(scope="module")
def usual(made, tmp_path_factory):
    return Reader(write_html(made, tmp_path_factory.mktemp("usual") / "page.html").read_text(encoding="utf-8"))


def renamed(value, name):
    if isinstance(value, dict):
        return {renamed(key, name): renamed(item, name) for key, item in value.items()}
    if isinstance(value, list):
        return [renamed(item, name) for item in value]
    return value.replace("qqq", name) if isinstance(value, str) else value


@pytest.mark.parametrize("nasty", [*NAMES, *HOSTILE.values()], ids=repr)
def test_no_name_in_a_verification_is_markup(tmp_path, nasty):
    found = Verification(nasty, [Claim(nasty, nasty, nasty, nasty, FAILS, reason=nasty)], notes=[nasty])
    (path,) = found.save(markdown=tmp_path / "verification.md")
    shown = Reader(MarkdownIt("commonmark", {"html": True}).enable("table").render(path.read_text(encoding="utf-8")))
    assert shown.tags <= TAGS | {"h1", "ul", "li"} and not shown.comments and not shown.links
    assert found.table() and "\x1b" not in found.table()


#: The others, which each take a third of a second, are slow.
FIRST = ("script", "html", "comment", "bar", "turned", "control")


@pytest.mark.parametrize(
    "nasty",
    [HOSTILE[kind] for kind in FIRST]
    + [pytest.param(name, marks=pytest.mark.slow) for name in (*NAMES, *HOSTILE.values())],
    ids=repr,
)
def test_no_name_in_a_comparison_is_markup(tmp_path, nasty, made, usual, monkeypatch):
    monkeypatch.setattr("hf_robustft.comparison.output.plot_frontier", lambda summary, path: path.touch() or path)
    files = write_comparison(renamed(made, nasty), tmp_path)
    table, page = ((tmp_path / name).read_text(encoding="utf-8") for name in (MARKDOWN_FILE, PAGE_FILE))
    shown = Reader(MarkdownIt("commonmark", {"html": True}).enable("table").render(table))
    assert shown.tags <= TAGS and not shown.comments and shown.links == ["frontier.png"]
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200e\u200f\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]", table)
    shown = Reader(page)
    assert (shown.tags, shown.attributes, shown.comments) == (usual.tags, usual.attributes, usual.comments)
    assert shown.links == usual.links and page.count("<script>") == 1
    assert load_comparison(tmp_path)["candidates"] and len(files) == 4
