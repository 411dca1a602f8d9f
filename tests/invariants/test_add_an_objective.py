# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The guide that adds an objective does so, when it is applied to a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import blocks

REPOSITORY = Path(__file__).resolve().parents[2]
GUIDE = REPOSITORY / "examples" / "guides" / "add_an_objective.md"
TEXT = GUIDE.read_text(encoding="utf-8")
OBJECTIVE, TEST, OUTSIDE = blocks(TEXT, "python")


def changed(source: str, diff: str) -> str:
    """`source` with the hunks of a diff whose lines say where they belong."""
    for hunk in re.split(r"^@@.*\n", diff, flags=re.M)[1:]:
        before, after = (
            "".join(f"{line[1:]}\n" for line in hunk.splitlines() if line[:1] in kept) for kept in (" -", " +")
        )
        assert source.count(before) == 1, f"{before!r} is not once in methods.py"
        source = source.replace(before, after)
    return source


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The package and what its tests share, with the guide applied: two files and a test."""
    root = tmp_path_factory.mktemp("with_confidence_penalty")
    leave = shutil.ignore_patterns("assets", "__pycache__")
    shutil.copytree(REPOSITORY / "hf_robustft", root / "hf_robustft", ignore=leave)
    (root / "hf_robustft" / "assets").symlink_to(REPOSITORY / "hf_robustft" / "assets")
    for name in ("conftest.py", "helpers"):
        (root / "tests" / name).parent.mkdir(exist_ok=True)
        (root / "tests" / name).symlink_to(REPOSITORY / "tests" / name)
    named = re.findall(r"^`((?:hf_robustft|tests)/[\w/]+\.py)`", TEXT, flags=re.M)
    objective, methods, test = (root / name for name in named)
    objective.write_text(OBJECTIVE)
    methods.write_text(changed(methods.read_text(), blocks(TEXT, "diff")[0]))
    test.parent.mkdir()
    test.write_text(TEST)
    return root


#: Run where the copy is the package: the guide's test, and what follows from the declaration. Without a folder of its own for temporary files
#: this pytest would remove those that earlier runs have left, for up to minutes.
IN_THE_COPY = """
import contextlib, io, runpy, sys

import pytest

from hf_robustft import cli
from hf_robustft.objectives.papers import METHOD_FACTS
from hf_robustft.training.methods import RobustTrainingArguments

failed = pytest.main(["-q", "-p", "no:cacheprovider", "--rootdir", ".", "--basetemp", "temporary", "tests/objectives"])
facts = METHOD_FACTS["confident"]
assert (facts.label, facts.papers[0].arxiv) == ("FT + confidence penalty", "1701.06548")
assert "confidence_weight (`float`, *optional*, defaults to 0.1):" in RobustTrainingArguments.__doc__
runpy.run_module("hf_robustft.cli.describe", run_name="__main__")
for method, shown in (("confident", True), ("ft", False)):
    with contextlib.redirect_stdout(io.StringIO()) as help, contextlib.suppress(SystemExit):
        cli.main(["train", "--method", method, "--help"])
    line = "--confidence_weight NUMBER        Weight of the negative entropy of the predictions"
    assert (line in help.getvalue()) == shown and f"method {method}:" in help.getvalue(), help.getvalue()
# A later process, which has made no Trainer, writes the card again.
from hf_robustft.cli import calibrate
from hf_robustft.publishing.metadata import write_robustft_json

write_robustft_json("out", method="confident", class_names=["cat"], templates=["a {}."], settings={})
del METHOD_FACTS["confident"], sys.modules["hf_robustft.training.methods"]
import hf_robustft.training

del hf_robustft.training.methods
calibrate.validation_set = calibrate.recalibrate = calibrate.summary = lambda *args, **options: ""
calibrate.run(["out", "--dataset", "emoji_shift/validation", "--use_cpu"])
assert METHOD_FACTS["confident"].label == "FT + confidence penalty"
sys.exit(failed)
"""


def test_the_guide_passes_its_own_test_and_the_rest_follows_from_the_declaration(copy):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (copy, copy / "tests")))}
    command = [sys.executable, "-c", IN_THE_COPY]
    result = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{TEST.count('def test_')} passed" in result.stdout


def test_the_same_file_works_outside_the_package(tmp_path, monkeypatch):
    (tmp_path / "confidence_penalty.py").write_text(OBJECTIVE)
    (tmp_path / "my_run.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    import my_run

    from hf_robustft import FineTuneTrainer

    assert my_run.args.given == {"output_dir", "confidence_weight"}
    my_run.ConfidentTrainer.check_settings(my_run.args)
    with pytest.raises(ValueError, match="`confidence_weight=0.2` .*'ft' does not use it"):
        FineTuneTrainer.check_settings(my_run.args)
    for name in ("my_run", "confidence_penalty"):
        del sys.modules[name]
