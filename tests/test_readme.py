# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The README's code runs as printed, its files exist, and .ci/run calls its test command."""

import re

import pytest


@pytest.fixture(scope="module")
def readme(repository):
    return (repository / "README.md").read_text(encoding="utf-8")


def test_python_blocks_run_as_printed(readme, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    assert len(blocks) == 2
    names = {}
    for block in blocks:
        # The README trains on whatever device there is; 20 steps are its lesson, 2 are this test's.
        block = block.replace("max_steps=20", "max_steps=2, use_cpu=True, report_to='none', disable_tqdm=True")
        exec(compile(block, "README.md", "exec"), names)
    assert {"eval_validation/accuracy", "eval_twemoji/ece"} <= set(names["metrics"])
    assert (tmp_path / "outputs" / "mine" / "model.safetensors").is_file()
    trainer = names["trainer"]
    mine = names["MyTrainer"](trainer.model, trainer.args, train_dataset=trainer.train_dataset, data_collator=list)
    pairs = trainer.data_collator([trainer.train_dataset[(0, i)] for i in range(4)])
    terms = mine.loss_terms(mine.encode_global(mine.model, pairs), pairs)
    assert list(terms) == ["contrastive", "cross_frobenius", "orthogonality", "small_scale"]
    assert "accuracy" in capsys.readouterr().out


def test_linked_files_exist(readme, repository):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", readme)
    assert targets
    missing = [target for target in targets if not (repository / target).exists()]
    assert not missing
    for mentioned in set(re.findall(r"(?:examples|tests)/[\w./]+\w", readme)):
        assert (repository / mentioned).exists(), mentioned


def test_ci_calls_the_test_command(readme, repository):
    commands = re.findall(r"```bash\n(pip install [^\n]+)\n```", readme)
    assert len(commands) == 2
    assert "accelerate launch" in commands[0] and commands[1].endswith("python -m pytest")
    assert commands[1] in (repository / ".ci" / "run").read_text(encoding="utf-8")
    assert all("-c constraints.txt" in command for command in commands)
