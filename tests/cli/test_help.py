# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The help of the commands, and the description of their flags, which answers in place of the parsers."""

import json
import re
import sys
from pathlib import Path

import pytest
from helpers.quick import DESCRIBED, LIMIT, seconds

from hf_robustft.cli import COMMANDS, main
from hf_robustft.cli.describe import as_text, describe
from hf_robustft.cli.description import (
    _FILES_OF_TRANSFORMERS,
    FLAGS_FILE,
    Description,
    transformers_hash,
    transformers_version,
)
from hf_robustft.cli.first_look import first_look
from hf_robustft.cli.parser import UsageError

usual_flags = pytest.mark.skipif(not DESCRIBED, reason="flags.json describes other flags of Transformers")


@pytest.mark.parametrize("command", ["script", *COMMANDS])
def test_help_is_quick_and_in_groups_with_defaults(command, repository):
    program = [str(repository / "examples" / "run_robust_ft.py")] if command == "script" else ["-m", "hf_robustft.cli", command]
    done, spent = seconds([sys.executable, *program, "--help"])
    assert done.returncode == 0 and done.stderr == "" and spent < LIMIT
    assert done.stdout.startswith("usage: ")
    if command in ("script", "train"):
        places = [done.stdout.index(f"\n{title}:\n") for title in ("method carot", "model", "data", "evaluation", "training", "publishing")]
        assert places == sorted(places)
        assert "(default: carot)" in done.stdout and "--adam_beta1" not in done.stdout
        everything, _ = seconds([sys.executable, *program, "--help_all"])
        assert "--adam_beta1" in everything.stdout and "(default: 0.9)" in everything.stdout
    elif command not in ("publish", "compare"):
        assert "--use_cpu" in done.stdout and "(default: 256)" in done.stdout


METHODS = Description.of_what_is_installed().facts["methods"]


@pytest.mark.parametrize("method", METHODS)
def test_help_fits_two_screens_and_names_the_settings_of_the_method(method, capsys):
    with pytest.raises(SystemExit):
        main(["train", f"--method={method}", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= (100 if "+" not in method else 115) and max(map(len, lines)) <= 110
    shown = re.split(r"\n(?=  --)", "\n".join(lines))
    shown = {re.match(r"  --(?:\[no_\])?(\w+)", text)[1]: " ".join(text.split()) for text in shown[1:]}
    facts = METHODS[method]
    for name in set().union(*(other["settings"] for other in METHODS.values())):
        assert (name in shown) == (name in facts["settings"]), name
    assert ("learning_rate" in shown) == (method not in ("tip_adapter", "model_stock", "zero_shot", "auto")) and "seed" in shown
    # Of a text that began with the methods it is for, their names were all that was left.
    assert not [text for name, text in shown.items() if name in facts["settings"] and text.split()[-1] in METHODS]
    for name, value in facts["paper"].items():
        if name in shown:
            value = f"{value:g}".replace("e-0", "e-") if type(value) is float else str(value).lower()
            assert re.search(rf"\(default(?:: \S+;| and) paper: {re.escape(value)}\)", shown[name]), shown[name]
    for name, value in facts["defaults"].items():
        value = f"{value:g}".replace("e-0", "e-") if isinstance(value, (int, float)) else value
        assert f"(default: {value}" in shown[name] or "(default and" in shown[name]


def test_the_settings_in_the_help_are_those_that_the_method_reads():
    from hf_robustft.training.methods import METHODS as trainers
    from hf_robustft.training.methods import RobustTrainingArguments
    from hf_robustft.training.settings import declarations, declared_settings, unused_settings
    from hf_robustft.training.trainer import RobustTrainer

    for method, trainer in trainers.items():
        unused = unused_settings(trainer, RobustTrainingArguments)
        # What trains is chosen for every method alike, and shown with the settings of training.
        common = declared_settings(RobustTrainer)
        assert bool(common & unused) == (not trainer.trains_model) and unused & common <= set(METHODS[method]["idle"])
        read = set(declarations(RobustTrainingArguments)) - unused - common
        assert read <= set(METHODS[method]["settings"]) and not unused & set(METHODS[method]["settings"])
    assert METHODS["croft"]["paper"]["learning_rate"] == 0.002 and METHODS["croft"]["defaults"]["learning_rate"] == 0.003


def test_help_of_another_version_of_transformers_is_read_from_the_parsers(monkeypatch, capsys):
    monkeypatch.setattr("hf_robustft.cli.description.transformers_version", lambda: "another")
    monkeypatch.setattr("hf_robustft.cli.description.transformers_hash", lambda: "another")
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "method carot:" in capsys.readouterr().out


def test_help_of_auto_says_what_it_does_and_what_it_can_be_given(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--method", "auto", "--help"])
    told = capsys.readouterr().out
    assert all(flag in told for flag in ("hf-robustft compare", "--rule", "--jobs", "--learning_rates", "--dry_run", "--train_dataset"))
    for refused in ("--learning_rate ", "--recipe", "--push_to_hub", "--hub_model_id", "--resume_from_checkpoint", "--orthogonality_weight"):
        assert f"\n  {refused}" not in told
    assert re.search(r"--seed N .*\(default: 0\)", told)


@usual_flags
def test_the_description_is_what_the_real_parsers_say():
    described, facts = json.loads(FLAGS_FILE.read_text(encoding="utf-8")), describe()
    if described["transformers"] != transformers_version():
        # Another version may put the help into other words.
        for item in (described, facts):
            item.pop("transformers")
            for argument in item["commands"]["train"]["arguments"]:
                argument.pop("help", None)
        assert json.loads(as_text(facts)) == described
    else:
        assert FLAGS_FILE.read_text(encoding="utf-8") == as_text(facts), "run `python -m hf_robustft.cli.describe`"


@usual_flags
def test_what_is_installed_is_what_is_described(monkeypatch):
    assert Description.load() is not None
    monkeypatch.setattr("hf_robustft.cli.description.transformers_version", lambda: "another")
    assert Description.load() is not None


def test_a_transformers_with_other_flags_has_another_hash(tmp_path):
    """But not one that puts its help or what its methods do into other words."""
    import transformers

    usual, copy = Path(transformers.__file__).parent, tmp_path / "transformers"
    names = ("training_args.py", *_FILES_OF_TRANSFORMERS)
    texts = {name: (usual / name).read_text(encoding="utf-8") for name in names}
    hashes = {}
    for change, (name, old, new) in {
        "help": ("training_args.py", '"help": "', '"help": "Really: '),
        "methods": ("training_args.py", "    def __post_init__(self):", "    def __post_init__(self):\n        pass"),
        "nothing": ("training_args.py", "", ""),
        "default": ("training_args.py", "learning_rate: float = field(default=5e-5", "learning_rate: float = field(default=6e-5"),
        "name": ("training_args.py", "    learning_rate: float", "    lr: float"),
        "choice": ("trainer_utils.py", '    EPOCH = "epoch"', '    EPOCH = "pass"'),
        "tracker": ("integrations/integration_utils.py", '    "tensorboard": ', '    "board": '),
        "kind": ("hf_argparser.py", "def string_to_bool(v):", "def string_to_bool(v):\n    return True"),
    }.items():
        assert old in texts[name], old
        for path, text in texts.items():
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            (copy / path).write_text(text.replace(old, new) if path == name else text, encoding="utf-8", newline="")
        hashes[change] = transformers_hash(copy)
    assert hashes["help"] == hashes["methods"] == hashes["nothing"] == transformers_hash() == transformers_hash(usual)
    assert len(set(hashes.values())) == len(hashes) - 2 and "unknown" not in hashes.values()
    (copy / "training_args.py").unlink()
    assert transformers_hash(copy) == "unknown"


def test_a_description_of_something_else_is_not_used_and_the_real_parsers_say_the_same(monkeypatch):
    monkeypatch.setattr("hf_robustft.cli.description.source_hash", lambda *files: "another")
    assert Description.load() is None
    with pytest.raises(UsageError, match="--learning_rate"):
        first_look("train", ["--learning_rat", "1"])
    assert first_look("train", ["--seed", "3"]).seed == 3
