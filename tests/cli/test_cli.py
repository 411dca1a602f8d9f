# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The command line as a whole: its overview, its errors, and that a command loads nothing of the others."""

import subprocess
import sys

import pytest

import hf_robustft
from hf_robustft.cli import COMMANDS, main


def test_version_and_overview(capsys):
    for option, expected in (("--version", [hf_robustft.__version__]), ("--help", [*COMMANDS, *COMMANDS.values()])):
        with pytest.raises(SystemExit) as end:
            main([option])
        printed = " ".join(capsys.readouterr().out.split())
        assert end.value.code == 0 and all(text in printed for text in expected)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_of_a_command_is_its_docstring(command, capsys):
    from importlib import import_module

    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    first = import_module(f"hf_robustft.cli.{command}").__doc__.strip().splitlines()[0]
    assert first in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["publish"]])
def test_wrong_use_is_refused(arguments, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


def test_an_error_is_one_line_or_with_the_variable_a_traceback(tmp_path, capsys, monkeypatch):
    arguments = ["publish", str(tmp_path / "nowhere"), "--repo_id", "user/clip"]
    monkeypatch.delenv("HF_ROBUSTFT_TRACEBACK", raising=False)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: `DIR") and "nowhere" in error and error.count("\n") == 1
    monkeypatch.setenv("HF_ROBUSTFT_TRACEBACK", "1")
    with pytest.raises(ValueError, match="nowhere"):
        main(arguments)


def test_the_overview_loads_no_torch():
    code = (
        "import sys; from hf_robustft.cli import main\ntry: main(['--help'])\nfinally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "hf_robustft.cli", "--version"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and hf_robustft.__version__ in done.stdout


def test_the_entry_point_is_declared(repository):
    project = (repository / "pyproject.toml").read_text(encoding="utf-8")
    assert '[project.scripts]\nhf-robustft = "hf_robustft.cli:main"\n' in project
