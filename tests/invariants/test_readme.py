# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The README is short, its Python runs as printed, and .ci/run calls its test command. Its commands and links: test_guides."""

import dataclasses
import re
from pathlib import Path

import pytest
from helpers import image_dataset
from helpers.commands import blocks

from hf_robustft.data.benchmarks import load_benchmark
from hf_robustft.data.few_shot import few_shot


@pytest.fixture(scope="module")
def readme(repository):
    return (repository / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_short(readme):
    assert len(readme.split()) <= 1200


def test_python_blocks_run_as_printed(readme, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    trained, classified = blocks(readme, "python")
    names = {}
    # One image of each of the 200 classes in place of seven.
    suite = {name: few_shot(benchmark, 1) for name, benchmark in load_benchmark("emoji_shift").items()}
    monkeypatch.setattr("hf_robustft.load_benchmark", lambda name: {"emoji_shift": suite}[name])
    # The README trains on whatever device there is; 20 steps are its lesson, 2 are this test's.
    trained = trained.replace("max_steps=20", "max_steps=2, use_cpu=True, report_to='none', disable_tqdm=True")
    exec(compile(trained, "README.md", "exec"), names)
    assert {"eval_validation/accuracy", "eval_twemoji/ece"} <= set(names["metrics"])
    mine = tmp_path / "outputs" / "mine"
    assert {"model.safetensors", "evaluation.json", "README.md"} <= {path.name for path in mine.iterdir()}
    (tmp_path / "photos").mkdir()
    for i, row in enumerate(image_dataset(5)):
        row["image"].save(tmp_path / "photos" / f"{i}.png")
    exec(compile(classified, "README.md", "exec"), names)
    assert names["answer"]["nearest_class"]
    # With a threshold that nothing reaches.
    dataclasses.replace(names["classify"].detector, threshold=1e6).save(mine)
    exec(compile(classified, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "accuracy" in printed and f"{Path('photos', '4.png')} unknown" in printed


def test_ci_calls_the_test_command(readme, repository):
    commands = re.findall(r"```bash\n(pip install [^\n]+)\n```", readme)
    assert len(commands) == 2
    assert "accelerate launch" in commands[0] and "python -m pytest" in commands[1]
    assert commands[1] in (repository / ".ci" / "run").read_text(encoding="utf-8")
    assert all("-c constraints.txt" in command for command in commands)
