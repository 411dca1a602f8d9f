# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Upload a finished checkpoint folder with its card to a model repository on the Hub.

    hf-robustft publish outputs/carot --repo_id user/my-clip --dry_run
    hf-robustft publish outputs/carot --repo_id user/my-clip --private

What belongs to the model goes in one commit: weights, configuration, tokenizer and processor, robustft.json, head,
adapters, the card with its pictures, and the evaluation. Checkpoints of the run, optimizer states, training_args.bin and
logs stay. Weights, card and metadata are checked first, and no file may hold an access token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..publishing.hub import RETRIES, Publication, publish
from .commands import CommandParser, option


@dataclass(kw_only=True)
class PublishOptions:
    """What is uploaded, and where to."""

    folder: str = option("The finished folder, with a card.", positional=True, metavar="DIR")
    repo_id: str = option("user/name, or a name in your own account.")
    private: bool | None = option("Make the repository private if it is new.", None)
    dry_run: bool = option("Check, and show what would be uploaded. No network.", False)
    revision: str | None = option("Branch to upload to; made if it does not exist. Default: main.", None)
    message: str | None = option("First line of the commit.", None)
    include: list[str] = option("Upload these files too, such as 'runs/*'.", [], action="extend", metavar="PATTERN")
    overwrite_card: bool = option("Replace the card on the Hub even if a person wrote or edited it there.", False)
    retries: int = option("Repetitions when the Hub fails for the moment.", RETRIES)


def parser() -> CommandParser:
    """The parser of `hf-robustft publish`."""
    return CommandParser(PublishOptions, prog="hf-robustft publish", description=__doc__)


def run(arguments: Sequence[str]) -> int:
    """Upload what `arguments` say, or say what would be; the token is that of `hf auth login` or of HF_TOKEN."""
    (options,) = parser().parse(arguments)
    done = publish(
        options.folder,
        options.repo_id,
        private=options.private,
        dry_run=options.dry_run,
        revision=options.revision,
        commit_message=options.message,
        include=options.include,
        edited_card="overwrite" if options.overwrite_card else "refuse",
        retries=options.retries,
    )
    print(described(done, Path(options.folder)))
    return 0


def described(done: Publication, folder: Path) -> str:
    """What was `done` with a `folder`, in words: a table of the files, what stays, and the address."""
    width = max(map(len, done.files))
    lines = [f"  {name:<{width}}  {readable(size):>9}" for name, size in done.files.items()]
    lines += [f"{len(done.files)} files, {readable(sum(done.files.values()))}"]
    if done.left_out:
        lines.append(f"Left out: {', '.join(done.left_out)}")
    if done.removed:
        lines.append(f"Removed from the repository: {', '.join(done.removed)}")
    if done.commit is None:
        return "\n".join([f"Would go from {folder} to {done.repo_id}:", *lines, "Checked; nothing was uploaded."])
    if done.unchanged:
        same = f"Nothing has changed: {done.repo_id} already holds what is in {folder}, and nothing was uploaded:"
        return "\n".join([same, *lines, f"{done.url} (commit {done.commit[:8]})"])
    return "\n".join([f"Uploaded from {folder} to {done.repo_id}:", *lines, f"{done.url} (commit {done.commit[:8]})"])


def readable(size: int) -> str:
    """A number of bytes (`size`) as a reader writes it: 512 B, 1.4 MB."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{size} B"
