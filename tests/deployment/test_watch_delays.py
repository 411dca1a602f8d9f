# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The simulation of `hf-robustft watch` judges as the command does, and counts what it says it counts."""

import importlib
import json
import sys

import pytest
import torch

from hf_robustft import load_benchmark, pipeline
from hf_robustft.cli import main


@pytest.fixture
def delays(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "examples"))
    return importlib.import_module("watch_delays")


def test_a_simulated_stream_is_judged_as_the_command_judges_it(delays, tmp_path):
    model = pipeline("emoji_clip_carot", device="cpu")
    reference, foreign = (delays.measure(model, key, 40) for key in ("validation", "openmoji"))
    for key, folder in (("validation", "reference"), ("openmoji", "stream")):
        (tmp_path / folder).mkdir()
        data = load_benchmark("emoji_shift", key).load()
        step = len(data) // 40
        for number in range(40):
            data[number * step]["image"].save(tmp_path / folder / f"{number:02}.png")
    command = ["watch", "emoji_clip_carot", *(f"--{name}={tmp_path / name}" for name in ("reference", "stream")), f"--output_dir={tmp_path / 'out'}"]
    assert main([*command, "--use_cpu", "--disable_tqdm"]) in (0, 3)
    found = json.loads((tmp_path / "out" / "watch.json").read_text())
    order = [int(json.loads(line)["image"][:2]) for line in (tmp_path / "out" / "watch_images.jsonl").read_text().splitlines()]
    report = delays.play(delays.reference_of(reference, 0), foreign[torch.tensor(order)], 0.01, 0)
    for name, facts in report["statistics"].items():
        # What equal values are told apart by belongs to names.
        assert facts["more_foreign_than_reference"] == pytest.approx(found["statistics"][name]["more_foreign_than_reference"], abs=1e-6), name
    for name in ("accepted", "confidence"):
        assert report[name] == pytest.approx(found[name], abs=1e-5)
    assert report["estimated_accuracy"]["all"] == pytest.approx(found["estimated_accuracy"]["all"], abs=1e-5)


@pytest.mark.slow  # Ten seconds for an example: `python -m pytest -m slow tests/deployment/test_watch_delays.py`.
def test_the_tables_count_what_was_played(delays, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["watch_delays.py", "--limit", "60", "--streams", "4", "--orders", "3", "--output", str(tmp_path)])
    delays.main()
    content = json.loads((tmp_path / "watch_delays.json").read_text())
    assert content["quiet"]["streams"] == 4 and content["quiet"]["images"] == 30
    for name, starts in content["delays"].items():
        for of in starts.values():
            assert sum(of["verdicts"].values()) == 3 >= of["alarms"] + of["too_early"], name
            assert (of["delay"] is None) is (of["alarms"] == 0)

    assert "unseen classes" in content["delays"] and len(content["delays"]) == 10
    model = pipeline("emoji_clip_carot", device="cpu")
    of = delays.measure(model, "twemoji", 60)
    assert content["accuracy"]["twemoji"]["all"]["true"] == pytest.approx(of.right.double().mean().item())
    labels, names = of.classes.tolist(), load_benchmark("emoji_shift", "twemoji").class_names
    assert len(set(labels)) > 30 and max(labels) < len(names)
    assert content["command"].startswith("python examples/watch_delays.py --limit 60") and "| noto |" in (tmp_path / "watch_delays.md").read_text()
