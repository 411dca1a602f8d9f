# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The example script with --push_to_hub: what is measured last is pushed last, and whole."""

import json

import pytest
from helpers import TEMPLATES, image_dataset, tiny_processor
from huggingface_hub import ModelCard

QUIET = ["--use_cpu", "--disable_tqdm", "true", "--report_to", "none", "--logging_steps", "1"]


@pytest.fixture
def command(repository, tmp_path, tiny_clip):
    """A short run on four sets of 24 images, a card and a detector at its end."""
    tiny_clip.save_pretrained(tmp_path / "base")
    tiny_processor().save_pretrained(tmp_path / "base")
    (tmp_path / "prompts.txt").write_text("\n".join(TEMPLATES))
    for seed, name in enumerate(("train", "validation", "test", "sketch")):
        (tmp_path / "data" / name).mkdir(parents=True)
        image_dataset(24, seed=seed).to_parquet(tmp_path / "data" / name / "train.parquet")
    flags = ["--model", "base", "--templates", "prompts.txt", "--train_dataset", "data/train", "--max_steps", "4"]
    flags += ["--eval_datasets", "data/test", "data/validation:validation", "data/sketch:shift"]
    flags += ["--per_device_train_batch_size", "8", "--output_dir", "out", *QUIET]
    script = [str(repository / "examples" / "run_robust_ft.py"), *flags]
    return lambda *more: [*script, "--push_to_hub", "true", "--hub_model_id", "alice/job", *more]


#: With a head too: `python -m pytest -m slow tests/hub/test_push_job.py`.
@pytest.mark.parametrize("method", ["carot", pytest.param("ft", marks=pytest.mark.slow)])
def test_the_last_push_holds_what_was_measured(hub, run_with_hub, command, tmp_path, method):
    every_save = ["--hub_strategy", "every_save", "--save_strategy", "steps", "--save_steps", "2"]
    done = run_with_hub(command("--method", method, *every_save), hub)
    assert f"Pushed to {hub.url}/alice/job" in done.stdout.splitlines()[-1]
    files, out = hub.files("model", "alice/job"), tmp_path / "out"
    wanted = {"README.md", "evaluation.json", "model.safetensors", "reliability.png", "robustft.json", "shift.png"}
    assert wanted | ({"head.safetensors"} if method == "ft" else set()) <= files.keys()
    assert not [name for name in files if "training_args" in name or "optimizer" in name]
    for name, content in files.items():
        if name != ".gitattributes":
            assert content == (out / name).read_bytes(), name
    card = ModelCard(files["README.md"].decode())
    assert {result.dataset_name for result in card.data.eval_results} == {"test", "validation", "sketch"}
    assert "unfinished-run" not in card.data.tags
    facts = json.loads(files["robustft.json"])
    assert facts["method"] == method and "detector" in facts
    if method == "ft":
        head = run_with_hub("from hf_robustft import ZeroShotHead; print(ZeroShotHead.from_pretrained('alice/job'))", hub)
        assert "ZeroShotHead" in head.stdout
    # Earlier pushes were of the unfinished run, and said so.
    history = hub.repositories["model", "alice/job"].history()
    earlier = [commit.files["README.md"].content for commit in history[1:] if "README.md" in commit.files]
    assert earlier and all(b"unfinished-run" in content for content in earlier)


@pytest.mark.slow  # 40 s: it waits through all repetitions.
def test_a_hub_that_fails_at_the_end_costs_nothing(hub, run_with_hub, command, tmp_path):
    hub.fail(r"POST .*/commit/", status=500, times=1000)
    done = run_with_hub(command("--method", "flyp", "--hub_strategy", "end"), hub, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and "hf-robustft publish out --repo_id alice/job" in last
    assert {"README.md", "evaluation.json", "model.safetensors"} <= {file.name for file in (tmp_path / "out").iterdir()}
