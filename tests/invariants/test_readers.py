# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""examples/speed/readers.py: a row for each loader, and what cannot be measured is refused."""

import json
import multiprocessing
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "speed"))

import readers  # noqa: E402

pytestmark = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="readers are forked")


def test_each_source_has_a_row(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(readers, "in_a_process", lambda function, *arguments: function(*arguments))
    rows = readers.main(["--quick", "--output_dir", str(tmp_path), "--processes", "2"])
    assert [(row.source, row.processes, row.images) for row in rows] == [(source, 2, 64) for source in readers.SOURCES]
    for row in rows:
        assert min(row.seconds, row.own, row.first) > 0 and min(row.reading, row.receiving) >= 0
    table = (tmp_path / "readers.md").read_text()
    assert table.strip() in capsys.readouterr().out and table.count("\n") == 5
    assert len(json.loads((tmp_path / readers.RESULTS).read_text())["rows"]) == 3


@pytest.mark.parametrize("wrong", [["--images", "33"], ["--images", "0"], ["--passes", "0"], ["--processes", "2", "0"]])
def test_what_cannot_be_measured_is_refused(wrong, tmp_path, capsys):
    with pytest.raises(SystemExit):
        readers.main(["--output_dir", str(tmp_path / "new"), *wrong])
    assert wrong[0] in capsys.readouterr().err and not (tmp_path / "new").exists()
