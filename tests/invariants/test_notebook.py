# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The notebook runs from top to end, offline and on the CPU, and what it shows is stored with it."""

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient


@pytest.fixture(scope="module")
def notebook(repository):
    return nbformat.read(repository / "examples" / "finetune_your_images.ipynb", as_version=4)


def shown(notebook) -> list[list[str]]:
    """What each code cell shows: "stdout", "stderr", or the kind of a picture or value, each once in a row."""
    cells = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            kinds = []
            for output in cell.outputs:
                kind = output.get("name") or (
                    "image/png" if "image/png" in output.get("data", {}) else output.output_type
                )
                kinds += [] if kinds[-1:] == [kind] else [kind]
            cells.append(kinds)
    return cells


def text_of(notebook) -> str:
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))


@pytest.mark.slow  # `python -m pytest -m slow tests/invariants/test_notebook.py`, half a minute: it trains as test_readme.py does.
def test_it_runs_from_top_to_end_and_shows_what_is_stored(notebook, tmp_path, monkeypatch):
    # Where `hf-robustft` lies, also if the environment of these tests is not activated.
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    again = nbformat.from_dict({**notebook, "cells": [{**cell} for cell in notebook.cells]})
    # 16 steps are its lesson, 4 are this test's.
    (training,) = (cell for cell in again.cells if "max_steps=16" in cell.source)
    training.source = training.source.replace("max_steps=16", "max_steps=4")
    NotebookClient(
        again, timeout=300, startup_timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert shown(again) == shown(notebook)
    finished = tmp_path / "outputs" / "animals"
    assert {"model.safetensors", "evaluation.json", "README.md"} <= {path.name for path in finished.iterdir()}
    printed = text_of(again)
    assert "zero-shot → CaRot" in printed and "folded into outputs/animals" in printed


def test_it_is_stored_as_it_ran(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = [kind for cell in shown(notebook) for kind in cell]
    assert kinds.count("image/png") == 7 and not {"stderr", "error"} & set(kinds)
    assert not re.search(r"(?<![\w.])/(?:work|tmp|home|root|usr|opt)/", text_of(notebook))
