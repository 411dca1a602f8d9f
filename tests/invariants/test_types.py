# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A user's type checker accepts the training code of README. Slow: `pip install mypy`, then `python -m pytest -m slow tests/invariants/test_types.py`."""

import os
import subprocess
import sys

import pytest
from helpers.commands import blocks

#: Their types are not ours, and reading them takes minutes. Errors inside the package are no concern of who uses it.
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
from hf_robustft import load_benchmark, TemperatureScaling
load_benchmark("emoji_shift", "train")["train"]
TemperatureScaling("1")
"""


def checked(text: str, folder, repository) -> subprocess.CompletedProcess:
    (folder / "settings.ini").write_text(SETTINGS)
    (folder / "user.py").write_text(text)
    command = [sys.executable, "-m", "mypy", "--config-file", "settings.ini", "user.py"]
    environment = {**os.environ, "MYPYPATH": str(repository), "PYTHONPATH": ""}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=550)


@pytest.mark.slow
def test_the_training_code_of_readme_has_the_right_types(repository, tmp_path):
    pytest.importorskip("mypy")
    readme = (repository / "README.md").read_text(encoding="utf-8")
    # Whether a path that `pipeline` is asked about is an image or a folder of them, no type can tell: left out.
    done = checked(blocks(readme, "python")[0], tmp_path, repository)
    assert done.returncode == 0, done.stdout + done.stderr
    assert checked(WRONG, tmp_path, repository).stdout.count("error:") == 2
