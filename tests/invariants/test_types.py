# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
The types that users see. Slow but for the first: `pip install -e ".[quality]"`, then
`python -m pytest -m slow tests/invariants/test_types.py`.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import blocks

import hf_robustft

PROGRAM = Path(__file__).with_name("every_public_name.py")
#: Their types are not ours, and reading them takes minutes. Errors inside the package are the business of the last test.
SETTINGS = """
[mypy]
ignore_missing_imports = True
check_untyped_defs = True
[mypy-torch.*,transformers.*,datasets.*,accelerate.*,scipy.*,sklearn.*,matplotlib.*,huggingface_hub.*,evaluate.*,torchmetrics.*]
follow_imports = skip
[mypy-hf_robustft.*]
follow_imports = silent
"""
WRONG = """
from hf_robustft import Benchmark, EvaluationReport, TemperatureScaling, load_benchmark, pipeline
load_benchmark("emoji_shift", "train")["train"]
TemperatureScaling("1")
EvaluationReport.load_json("evaluation.json").results["test"].acuracy
Benchmark("mine", "id", class_names=["cat"])
pipeline("outputs/mine", "main")
pipeline("outputs/mine")(["a.png"])["label"]
"""


def checked(folder, repository, *arguments) -> subprocess.CompletedProcess:
    pytest.importorskip("mypy")
    environment = {**os.environ, "MYPYPATH": str(repository), "PYTHONPATH": ""}
    return subprocess.run(
        [sys.executable, "-m", "mypy", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=550
    )


def checked_text(text: str, folder, repository) -> subprocess.CompletedProcess:
    (folder / "settings.ini").write_text(SETTINGS)
    (folder / "user.py").write_text(text)
    return checked(folder, repository, "--config-file", "settings.ini", "user.py")


def test_the_program_has_every_public_name():
    used = {node.id for node in ast.walk(ast.parse(PROGRAM.read_text(encoding="utf-8"))) if isinstance(node, ast.Name)}
    assert set(hf_robustft.__all__) <= used


@pytest.mark.slow
def test_a_type_checker_accepts_what_users_write(repository, tmp_path):
    """The Python of README, and a program that calls every public name and says what it gets."""
    readme = (repository / "README.md").read_text(encoding="utf-8")
    text = "\n".join([*blocks(readme, "python"), PROGRAM.read_text(encoding="utf-8")])
    done = checked_text(text, tmp_path, repository)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = checked_text(WRONG, tmp_path, repository).stdout
    lines = [line for line in WRONG.splitlines()[2:] if line]
    assert wrong.count("error:") == len(lines), wrong


@pytest.mark.slow
def test_the_package_itself_is_sound(repository):
    """By the settings of pyproject.toml, which say what is not asked, and why."""
    done = checked(repository, repository, "--cache-dir", os.devnull)
    assert done.returncode == 0, done.stdout + done.stderr
