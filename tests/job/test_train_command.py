# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`hf-robustft train` is the example script: the same flags, the same files, and recipes by name."""

import re

import pytest
from helpers import CLASSES, image_dataset, tiny_processor

from hf_robustft import cli
from hf_robustft.cli.config_file import RECIPES, recipes
from hf_robustft.cli.train import load_data, train
from hf_robustft.cli.train_arguments import CHOICES, parse
from hf_robustft.training.trainer import RobustTrainer

QUIET = "--use_cpu --disable_tqdm --report_to none --max_steps 2 --per_device_train_batch_size 4 --learning_rate 1e-3"


@pytest.fixture
def flags(tmp_path, tiny_clip, monkeypatch):
    """A short run on own images, with a validation set and an open set."""
    monkeypatch.chdir(tmp_path)
    tiny_clip.save_pretrained("base")
    tiny_processor().save_pretrained("base")
    sets = {"train": (CLASSES, 12), "test": (CLASSES, 8), "held_out": (CLASSES, 16), "other": (("fox", "ant"), 6)}
    for seed, (name, (classes, n)) in enumerate(sets.items()):
        image_dataset(n, seed=seed, classes=classes).to_parquet(f"{name}.parquet")
    sets = "test.parquet held_out.parquet:validation other.parquet:open_set"
    return f"--model base --train_dataset train.parquet --eval_datasets {sets} --output_dir out {QUIET}".split()


def files(folder) -> dict[str, bytes]:
    """By name, without the wall clock, the command, and the hash of the card."""
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    found.pop("training_args.bin", None)
    for name in ("README.md", "robustft.json"):
        text = re.sub(r"Wall time of training: .*|sha256 \w+|\"(wall_seconds|\w+_runtime|\w+_per_second|command)\": .*", "", found[name].decode())
        text = re.sub(r"(accelerate launch|hf-robustft train)[^`\"]*", "", text)
        found[name] = text.encode()
    return found


@pytest.mark.parametrize("method", ["carot", "wise_ft"])
def test_the_command_leaves_what_the_script_leaves(script, flags, tmp_path, method, capsys):
    script.main([*flags, "--method", method, "--fold_temperature"])
    assert "The first image of test: {" in capsys.readouterr().out
    (tmp_path / "out").rename(tmp_path / "by_script")
    assert cli.main(["train", *flags, "--method", method, "--fold_temperature"]) == 0
    assert "known or unknown" in capsys.readouterr().out
    card = (tmp_path / "out" / "README.md").read_text()
    assert "hf-robustft train \\\n" in card and "run_robust_ft.py" not in card
    assert files(tmp_path / "out") == files(tmp_path / "by_script")


def test_a_recipe_is_asked_for_by_name(tmp_path):
    own = [name for name in recipes() if name.startswith("emoji_shift/")]
    # Model Stock and LiNeS train nothing by themselves.
    assert own == sorted(f"emoji_shift/{method}" for method in {*CHOICES} - {"zero_shot", "model_stock", "lines"})
    _, data, args = parse(["--use_cpu", "--recipe", "emoji_shift/croft", "--weight_decay", "0.3"])
    assert (args.num_train_epochs, args.weight_decay, data.feature_views) == (30, 0.3, 4)
    assert args.origins["optim"] == "recipe emoji_shift/croft" and "weight_decay" not in args.origins
    model_args, _, args = parse(["--use_cpu", "--recipe", "emoji_shift/flyp", "--train_dataset", "mine"])
    assert model_args.method == "flyp" and args.output_dir == "outputs/flyp"
    assert args.origins["learning_rate"] == "recipe emoji_shift/flyp"
    # Own data have the method's defaults, and nothing else is read.
    assert not any("recipe" in origin for origin in parse(["--use_cpu", "--train_dataset", "mine"])[2].origins.values())
    (tmp_path / "mine.yaml").write_text("recipe: emoji_shift/ft\nseed: 3\n")
    model_args, _, args = parse(["--use_cpu", "--config", str(tmp_path / "mine.yaml")])
    assert (model_args.method, args.seed) == ("ft", 3)
    with pytest.raises(ValueError, match="`--recipe emoji_shift/ft` and `--paper_settings`"):
        parse(["--use_cpu", "--recipe", "emoji_shift/ft", "--paper_settings"])
    with pytest.raises(ValueError, match="did you mean emoji_shift/carot"):
        parse(["--use_cpu", "--recipe", "emoji_shift/carrot"])
    assert RECIPES.parent.name == "hf_robustft"


def test_a_recipe_on_other_data_measures_where_it_is_told_to(flags, capsys):
    at = flags.index("--eval_datasets")
    own = [*flags[:at], *flags[at + 4 :], "--recipe", "imagenet/flyp"]
    command = parse(own)
    assert command.data_args.eval_datasets == [] and command.args.origins["lr_schedule"] == "paper of flyp"
    data = load_data(command)
    assert data.evaluator is None and "Note: recipe imagenet/flyp measures on imagenet-1k, " in capsys.readouterr().out
    assert [item.name for item in load_data(parse([*flags, "--recipe", "imagenet/flyp"])).evaluation] == ["test", "held_out", "other"]
    assert "measures on" not in capsys.readouterr().out
    kept = parse(["--use_cpu", "--recipe", "imagenet/flyp", "--train_dataset", "imagenet-1k=/data/imagenet"]).data_args
    assert kept.eval_datasets[:2] == ["imagenet-1k", "imagenet-v2"]
    # One suite of a group is not other data, and is what {suite} stands for.
    one = parse(["--use_cpu", "--recipe", "vlcs/croft", "--train_dataset", "vlcs-sun=/data/VLCS"])
    assert one.data_args.eval_datasets[0] == "vlcs-sun=/data/VLCS" and one.args.output_dir == "outputs/croft"


def test_the_run_without_settings_says_which_recipe_it_takes(tmp_path, monkeypatch, capsys):
    class Trained(Exception):
        pass

    def stop(self, **options):
        raise Trained

    monkeypatch.setattr(RobustTrainer, "train", stop)
    with pytest.raises(Trained):
        train(["--use_cpu", "--disable_tqdm", "--shots", "1", "--skip_baseline", "--output_dir", str(tmp_path / "out")])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("recipe emoji_shift/carot: ")]
    assert len(lines) == 1 and "num_train_epochs=10.0" in lines[0]
