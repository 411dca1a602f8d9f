# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What takes seconds to import is not imported before it is needed."""

import json
import subprocess
import sys
from importlib import import_module

import pytest

from hf_robustft.cli import COMMANDS
from hf_robustft.cli.description import FLAGS_FILE, Description, transformers_hash

HEAVY = (
    *("accelerate", "datasets", "huggingface_hub", "matplotlib", "numpy", "pyarrow", "scipy", "sklearn", "torch"),
    "transformers",
)
DATA = ("--eval_datasets", "emoji_shift")
#: What each of these needs is known without a model or data: help, and errors of flags, values, paths and of options together.
LINES = [
    ("--help",),
    ("--version",),
    ("evalute",),
    *((command, "--help") for command in COMMANDS),
    ("train", "--help_all"),
    ("train", "--method", "croft", "--help"),
    *((command, "--no_such_flag") for command in COMMANDS),
    ("train", "--model", "{tmp}/nowhere"),
    ("train", "--train_dataset", "{tmp}/nowhere"),
    ("train", "--train_dataset", "{tmp}"),
    ("train", "--method", "wise_ft", "--finetuned_model", "{tmp}/nowhere"),
    ("train", "--max_steps", "many"),
    ("train", "--distillation_weight", "-1"),
    ("train", "--method", "ft", "--distillation_weight", "1"),
    ("train", "--method", "zero_shot", "--learning_rate", "1"),
    ("evaluate", "{tmp}/nowhere", *DATA),
    ("evaluate", "emoji_clip", "--eval_datasets", "{tmp}/nowhere"),
    ("evaluate", "emoji_clip"),
    ("evaluate", "emoji_clip", *DATA, "--knn_k", "3"),
    ("compare", "--model", "{tmp}/nowhere"),
    ("compare", "{tmp}/nowhere"),
    ("compare", "--rule", "best"),
    ("calibrate", "{tmp}/nowhere", "--dataset", "emoji_shift"),
    ("calibrate", "{tmp}", "--dataset", "emoji_shift"),
    ("predict", "emoji_clip_carot", "{tmp}/nowhere", "--output", "a.csv"),
    ("predict", "emoji_clip_carot", "{tmp}", "--output", "a.txt"),
    ("watch", "emoji_clip_carot", "--reference", "{tmp}/nowhere", "--stream", "{tmp}"),
    ("watch", "emoji_clip_carot", "--reference", "{tmp}", "--stream", "{tmp}/nowhere"),
    ("export", "{tmp}/nowhere"),
    ("export", "emoji_clip_carot", "--format", "tflite"),
    ("export", "emoji_clip_carot", "--dataset", "{tmp}/nowhere"),
    ("demo", "{tmp}/nowhere"),
    ("demo", "emoji_clip_carot", "--dataset", "{tmp}/nowhere"),
    ("demo", "emoji_clip_carot", "--space", "{tmp}/space", "--port", "80"),
    ("verify", "{tmp}/nowhere"),
    ("verify", "emoji_clip_carot", "--data", "noto={tmp}/nowhere"),
    ("verify", "emoji_clip_carot", "--output", "{tmp}"),
    ("publish", "{tmp}/nowhere", "--repo_id", "a/b"),
    ("publish", "{tmp}", "--repo_id", "a/b"),
]
PROGRAM = """
import contextlib, io, json, sys
from hf_robustft.cli import main

heavy, lines = json.loads(sys.argv[1])
for line in lines:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = main(line)
        except SystemExit as left:
            status = left.code
    print(json.dumps([line, status, bool(said.getvalue()), [name for name in heavy if name in sys.modules]]))
"""


def python(*words):
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


def described() -> bool:
    return json.loads(FLAGS_FILE.read_text(encoding="utf-8"))["transformers_hash"] == transformers_hash()


usual_flags = pytest.mark.skipif(not described(), reason="flags.json describes other flags of Transformers")


def test_the_package_imports_nothing_until_a_name_is_used():
    told = f"print(*[name for name in {HEAVY} if name in sys.modules])"
    assert python("-c", f"import sys, hf_robustft; dir(hf_robustft), hf_robustft.__all__; {told}").stdout.split() == []
    assert "datasets" in python("-c", f"import sys; from hf_robustft import few_shot; {told}").stdout.split()


@usual_flags
def test_help_and_errors_of_a_command_line_import_nothing_heavy(tmp_path):
    lines = [[word.format(tmp=tmp_path) for word in line] for line in LINES]
    found = [json.loads(line) for line in python("-c", PROGRAM, json.dumps([HEAVY, lines])).stdout.splitlines()]
    assert [line for line, *_ in found] == lines
    for line, status, said, imported in found:
        assert said and status == (0 if line[-1] in ("--help", "--help_all", "--version") else 2), line
        assert imported == [], line


@usual_flags
def test_the_script_prints_its_help_without_torch(repository):
    done = python("-X", "importtime", str(repository / "examples" / "run_robust_ft.py"), "--help")
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert done.stdout.startswith("usage: run_robust_ft.py") and not modules & set(HEAVY) and "hf_robustft.cli.endings" in modules


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "train"])
@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_the_help_is_what_the_parser_of_the_command_prints(command, columns, monkeypatch):
    """That of `train` is arranged by `--method`; that it has the arguments of the real parser another test holds."""
    monkeypatch.setenv("COLUMNS", columns)
    real = import_module(f"hf_robustft.cli.{command}").parser()
    assert Description.of_what_is_installed().parser(command).format_help() == real.format_help()
