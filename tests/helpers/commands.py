# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Runs the commands that README and guides print, in this process and in few steps."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

from hf_robustft import cli

SCRIPT = "examples/run_robust_ft.py"
#: Stands for checkpoints that would be downloaded.
MODELS = {"openai/clip-vit-base-patch16": "emoji_clip"}


def blocks(markdown: str, language: str) -> list[str]:
    """The fenced blocks of a language, those within lists too."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", markdown, flags=re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for _, block in found]


def commands(markdown: str) -> list[str]:
    """The commands of all bash blocks: continued lines and here-documents belong to their command."""
    found = []
    for block in blocks(markdown, "bash"):
        lines = iter(block.splitlines())
        for line in lines:
            command = line
            if end := re.search(r"<<'(\w+)'", line):
                while not command.endswith(f"\n{end[1]}"):
                    command += "\n" + next(lines)
            while command.endswith("\\"):
                command += "\n" + next(lines)
            if command.strip():
                found.append(command)
    return found


def words_of(command: str) -> list[str]:
    """The words of a command as the shell sees them, without comments and without variables set before it."""
    words = [MODELS.get(word, word) for word in shlex.split(command.replace("\\\n", " "), comments=True)]
    while words and re.fullmatch(r"\w+=\S*", words[0]):
        del words[0]
    return words


def parts(command: str) -> tuple[str, list[str]]:
    """
    What a command calls, and the flags that it gives.

    Returns:
        `tuple[str, list[str]]`: "script" (`examples/run_robust_ft.py`, however it is launched), a command of `hf-robustft`
        such as "evaluate", or "shell" for anything else, which has no flags.
    """
    words = words_of(command)
    if SCRIPT in words:
        return "script", words[words.index(SCRIPT) + 1 :]
    for program in ("hf-robustft", "hf_robustft.cli"):
        if program in words:
            name, *flags = words[words.index(program) + 1 :]
            return name, flags
    return "shell", []


def shortened(flags: list[str]) -> list[str]:
    """The flags of a training command for a run of two steps, of three if it resumes one of two; the last of equal flags counts."""
    more = "--use_cpu --disable_tqdm true".split()
    if "--eval_datasets" in flags:
        more += ["--skip_baseline"]
    if "--finetuned_model" in flags or "tip_adapter" in flags:
        return [*flags, *more]
    more += ["--report_to", "none", "--per_device_train_batch_size", "8"]
    more += ["--max_steps", "3" if "--resume_from_checkpoint" in flags else "2"]
    if "--contrastive_chunk_size" in flags:
        more += ["--contrastive_chunk_size", "4"]
    if "--dataloader_num_workers" in flags:
        more += ["--dataloader_num_workers", "0"]
    return [*flags, *more]


def run(command: str, script, folder: Path) -> None:
    """
    Run a command in `folder`, which is the working directory.

    Args:
        command: As it is printed.
        script: The module `examples/run_robust_ft.py`.
        folder: Where anything but our own commands runs, in a shell.

    Raises:
        AssertionError: If it fails.
    """
    called, flags = parts(command)
    if called == "script":
        script.main(shortened(flags))
    elif called == "train":
        assert cli.main(["train", *shortened(flags)]) == 0, command
    elif called == "publish":
        assert cli.main(["publish", *flags]) == 0, command
    elif called != "shell":
        assert cli.main([called, *flags, "--use_cpu", "--disable_tqdm"]) == 0, command
    else:
        # `python` is the one that runs the tests, with or without an activated environment.
        shell = f'python() {{ "{sys.executable}" "$@"; }}\n{command}'
        done = subprocess.run(["bash", "-ec", shell], cwd=folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
