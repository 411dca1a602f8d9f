# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The README's code runs as printed, its files exist, and .ci/run calls its test command."""

import re

import pytest
import torch
from helpers import CLASSES, TEMPLATES, image_dataset, tiny_processor

from hf_robustft import OpenSetDetector
from hf_robustft.publishing.metadata import write_robustft_json


@pytest.fixture(scope="module")
def readme(repository):
    return (repository / "README.md").read_text(encoding="utf-8")


def checkpoint_with_detector(model, folder):
    """The tiny model with a detector that refuses everything."""
    model.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    write_robustft_json(folder, method="croft", class_names=CLASSES, templates=TEMPLATES, settings={})
    logits = torch.full((3, 4), 1000.0)
    OpenSetDetector.fit(logits, class_names=CLASSES, logit_scale=model.logit_scale.exp()).save(folder)


def test_python_blocks_run_as_printed(readme, tiny_clip, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    assert len(blocks) == 3
    checkpoint_with_detector(tiny_clip, tmp_path / "outputs" / "croft")
    (tmp_path / "photos").mkdir()
    for i, row in enumerate(image_dataset(5)):
        row["image"].save(tmp_path / "photos" / f"{i}.png")
    names = {}
    for block in blocks:
        # The README trains on whatever device there is; 20 steps are its lesson, 2 are this test's.
        block = block.replace("max_steps=20", "max_steps=2, use_cpu=True, report_to='none', disable_tqdm=True")
        exec(compile(block, "README.md", "exec"), names)
    assert {"eval_validation/accuracy", "eval_twemoji/ece"} <= set(names["metrics"])
    mine = tmp_path / "outputs" / "mine"
    assert {"model.safetensors", "evaluation.json", "README.md"} <= {path.name for path in mine.iterdir()}
    assert names["pipeline"](mine)(str(tmp_path / "photos" / "0.png"))["nearest_class"]
    trainer = names["trainer"]
    mine = names["MyTrainer"](trainer.model, trainer.args, train_dataset=trainer.train_dataset, data_collator=list)
    pairs = trainer.data_collator([trainer.train_dataset[(0, i)] for i in range(4)])
    terms = mine.loss_terms(mine.encode_global(mine.model, pairs), pairs)
    assert list(terms) == ["contrastive", "cross_frobenius", "orthogonality", "small_scale"]
    printed = capsys.readouterr().out
    assert "accuracy" in printed and "4.png" in printed and "unknown" in printed


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
    assert "accelerate launch" in commands[0] and "python -m pytest" in commands[1]
    assert commands[1] in (repository / ".ci" / "run").read_text(encoding="utf-8")
    assert all("-c constraints.txt" in command for command in commands)
