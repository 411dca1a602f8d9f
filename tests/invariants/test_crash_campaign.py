# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Commands that are killed and given again end as those that were not, or refuse in one line; nothing is lost.

Here a few moments of one run. All commands, methods, streams and processes, at injected and random moments (minutes to hours):

    python tests/invariants/test_crash_campaign.py --kills 300 --table crashes.md
    python -m pytest -m slow tests/invariants/test_crash_campaign.py
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pytest
from helpers.campaign import RESUME, Campaign, campaign_in
from helpers.campaign_jobs import jobs
from helpers.crashes import Moments, differing, tear
from helpers.runs import trainer_of

from hf_robustft import CaRotTrainer
from hf_robustft.files import LOCK


def test_every_moment_of_a_save_leaves_a_checkpoint_to_go_on_from(tiny_clip, tmp_path):
    """What kill -9 would leave, copied at each moment of the third save, also with half of each file that is written then."""
    settings = {"max_steps": 3, "save_total_limit": 2, "num_train_epochs": 1}
    run, copies = tmp_path / "run", []
    trainer = trainer_of(CaRotTrainer, tiny_clip, run, save_steps=1, **settings)

    def copy(number, what, path):
        if trainer.state.global_step == 3:
            copies.append((f"{number} {what} {path.name}", shutil.copytree(run, tmp_path / f"{number}")))
            torn = shutil.copytree(run, tmp_path / f"{number}-torn")
            # What is removed with its folder, and what lies elsewhere, is not written.
            if path.is_relative_to(run) and tear(what, torn / path.relative_to(run)):
                copies.append((f"{number} torn {path.name}", torn))

    moments = Moments(run, copy)
    try:
        trainer.train()
    finally:
        moments.stop()
    weights, reached = (run / "checkpoint-3" / "model.safetensors").read_bytes(), []
    assert len(copies) > 40
    for what, folder in copies:
        trainer.args.output_dir = str(folder)
        with warnings.catch_warnings():
            # Removing checkpoint-1 was begun, which is no news where a later one is whole.
            warnings.simplefilter("error")
            reached.append(Path(trainer.checkpoint_to_resume("last")).name)
        assert {path.name for path in folder.iterdir()} <= {LOCK, *(f"checkpoint-{step}" for step in (1, 2, 3))}, what
        if len(reached) in (5, 25, len(copies)):
            resumed = trainer_of(CaRotTrainer, tiny_clip, folder, save_steps=1, **settings)
            resumed.train("last")
            assert (folder / "checkpoint-3" / "model.safetensors").read_bytes() == weights, what
            assert resumed.state.global_step == resumed.optimizer_steps == 3
    assert reached == sorted(reached) and set(reached) == {"checkpoint-2", "checkpoint-3"}


def test_a_killed_command_that_is_given_again_ends_as_the_other(tmp_path):
    campaign = Campaign(tmp_path)
    want, moments, _ = campaign.whole("train and finish, carot")
    # The page is one of what is compared.
    assert b"data-path" in want["report.html"]
    second = next(n for n, line in enumerate(moments, 1) if "written" in line and "checkpoint-2/optimizer.pt" in line)
    assert campaign.kill("train and finish, carot", "torn", second) == "equal"
    assert list(campaign.counts) == [("train and finish, carot", "injected", "a checkpoint is written", "equal")]
    # The newest is damaged afterwards: the command line takes the one before, and says so in one line.
    folder, job = tmp_path / "try", campaign.jobs["train and finish, carot"]
    tear("written", folder / "out" / "checkpoint-3" / "optimizer.pt")
    done = campaign.run(folder, job, [*job.command, *RESUME])
    (line,) = [line for line in done.stderr.splitlines() if "goes on from" in line]
    assert done.returncode == 0 and line.startswith("Warning: ") and "checkpoint-2" in line and "checkpoint-3/optimizer.pt" in line
    assert not differing(campaign.found(folder, job), campaign.whole("train and finish, carot")[0])


@pytest.mark.slow  # Hours on two busy cores.
def test_no_kill_loses_anything(tmp_path):
    with campaign_in(tmp_path) as campaign:
        campaign.campaign(300, list(campaign.jobs), seed=0, until=float("inf"))
        assert not campaign.lost and sum(campaign.counts.values()) >= 300


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="*", default=None, help="Parts of the names of those to kill; by default all.")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--table", type=Path, default=None)
    parser.add_argument("--every_moment", nargs="*", default=(), help="Of these, first look at what a kill at each moment would leave.")
    parser.add_argument("--pairs", type=int, default=0, help="So many times two of one command at once, after the kills.")
    parser.add_argument("--list", action="store_true")
    given = parser.parse_args()
    if given.list:
        sys.exit(print("\n".join(jobs())))
    with tempfile.TemporaryDirectory() as folder, campaign_in(Path(folder)) as running:
        chosen = [name for name in running.jobs if given.commands is None or any(part in name for part in given.commands)]
        try:
            for name in running.jobs:
                if any(part in name for part in given.every_moment):
                    running.every_moment(name)
                    print(time.strftime("%X"), name, sum(running.counts.values()), *running.lost[-1:], flush=True)
            until = time.time() + 60 * given.minutes
            running.campaign(given.kills, chosen, given.seed, until)
            running.pairs(given.pairs, chosen, given.seed, until)
        finally:
            print(running.table(), *running.lost, sep="\n")
            if given.table:
                given.table.write_text(running.table() + "\n")
    sys.exit(bool(running.lost))
