# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A run into a folder that another run has used leaves what a run into a fresh folder leaves, to the byte."""

import itertools
import re
import shutil
from pathlib import Path

import pytest
from helpers import CLASSES, image_dataset, tiny_processor

from hf_robustft.cli.train_arguments import CHOICES

#: Each kind of method once before and once after another (flyp and carot train what carot+croft trains).
CYCLE = ("ft", "croft", "wise_ft", "carot+croft", "zero_shot", "ft")
SETTINGS = ["--use_cpu", "--disable_tqdm", "true", "--report_to", "none"]
TRAINING = ["--max_steps", "1", "--per_device_train_batch_size", "4", "--logging_steps", "1", "--learning_rate", "1e-3"]
TRAINING += ["--warmup_steps", "0"]
#: Fields that hold seconds.
CLOCK = re.compile(r'"(wall_seconds|train_runtime|\w+_per_second)": [\d.]+|Wall time of training: [^\n]+|epoch_time')


@pytest.fixture
def run(script, tmp_path, tiny_clip, monkeypatch):
    """`run("--method", "ft", ...)` into `out`; `run.folder`."""
    monkeypatch.chdir(tmp_path)
    tiny_clip.save_pretrained("base")
    tiny_processor().save_pretrained("base")
    for name, n, seed in (("train", 8, 0), ("test", 6, 1), ("held_out", 16, 2)):
        for i, row in enumerate(image_dataset(n, seed=seed)):
            folder = tmp_path / "images" / name / CLASSES[row["label"]]
            folder.mkdir(parents=True, exist_ok=True)
            row["image"].save(folder / f"{i}.png")

    def run(*more, sets=("images/test",)):
        flags = ["--model", "base", "--train_dataset", "images/train", "--output_dir", "out"]
        training = [] if "zero_shot" in more else TRAINING
        script.main([*flags, *(["--eval_datasets", *sets] if sets else []), *SETTINGS, *training, *more])
        return Path("out")

    return run


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones included, without the wall clock; weights and states as they are."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b"a folder"
        if path.suffix in (".json", ".md"):
            content = CLOCK.sub("", content.decode()).encode()
            # The mark of a card is a hash of its text.
            content = re.sub(rb"sha256 [0-9a-f]{64}", b"", content)
        found[path.relative_to(folder).as_posix()] = content
    return found


def differing(got: dict[str, bytes], want: dict[str, bytes]) -> list[str]:
    return sorted(name for name in got.keys() | want.keys() if got.get(name) != want.get(name))


def check_pairs(run, runs: dict, pairs) -> None:
    """Run the second after the first, for each pair of names of `runs` (name to arguments)."""
    fresh = {}
    for name in dict.fromkeys(itertools.chain(*pairs)):
        shutil.rmtree("out", ignore_errors=True)
        run(*runs[name][0], **runs[name][1])
        fresh[name] = contents(Path("out"))
        shutil.copytree("out", f"fresh-{name}")
    for first, second in pairs:
        shutil.rmtree("out")
        shutil.copytree(f"fresh-{first}", "out")
        run(*runs[second][0], **runs[second][1])
        assert differing(contents(Path("out")), fresh[second]) == [], f"{second} after {first}"


BY_METHOD = {method: (["--method", method], {}) for method in CHOICES}


@pytest.mark.slow  # A quarter of a minute: `python -m pytest -m slow tests/job/test_rerun.py`, as all pairs.
def test_each_method_before_and_after_another(run):
    check_pairs(run, BY_METHOD, list(itertools.pairwise(CYCLE)))


@pytest.mark.slow  # 2 minutes: 7 runs into fresh folders, 49 into used ones.
@pytest.mark.parametrize("second", CHOICES)
def test_every_ordered_pair_of_methods(run, second):
    check_pairs(run, BY_METHOD, [(first, second) for first in CHOICES])


@pytest.mark.parametrize(
    "order",
    [
        ("everything", "plain", "two steps", "nothing", "everything"),
        pytest.param(("everything", "one kept", "two steps", "one kept", "plain"), marks=pytest.mark.slow),
    ],
    ids=["all kinds", "some kept"],
)
def test_pairs_of_options(run, order):
    sets = {"sets": ("images/test", "images/held_out:validation")}
    none = ["--save_strategy", "no"]
    runs = {
        "plain": (["--method", "flyp", *none], {}),
        "everything": (["--method", "ft", "--save_logits", "--fold_temperature"], sets),
        "nothing": (["--method", "flyp", *none], {"sets": ()}),
        "two steps": (
            ["--method", "croft", "--max_steps", "2", "--save_strategy", "steps", "--save_steps", "1"],
            sets,
        ),
        "one kept": (["--method", "flyp", "--max_steps", "2", "--save_steps", "1", "--save_total_limit", "1"], {}),
    }
    check_pairs(run, runs, list(itertools.pairwise(order)))
