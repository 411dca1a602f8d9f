# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Commands that are killed and given again end as those that were not, or refuse in one line; nothing is lost.

Here a few moments of one run. All commands, methods, streams and processes, at injected and random moments (minutes to hours):

    python tests/invariants/test_crash_campaign.py --kills 300 --table crashes.md
    python -m pytest -m slow tests/invariants/test_crash_campaign.py
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pytest
from helpers import CLASSES, image_dataset, tiny_config, tiny_processor
from helpers.crashes import Moments, contents, differing, tear
from helpers.forked import PRELOADED, ForkServer, run_ranks
from helpers.runs import trainer_of
from hub.loopback import LoopbackHub

from hf_robustft import CaRotTrainer, files
from hf_robustft.files import LOCK, READY, STAGE, settle
from hf_robustft.publishing.run_folder import settle_checkpoints, step_folders
from hf_robustft.training.checkpoint_files import whole_state

#: What the commands import beyond what every test does.
MODULES = (
    *PRELOADED,
    *(f"hf_robustft.cli.{name}" for name in ("evaluate", "calibrate", "compare", "predict", "export", "demo", "watch", "verify", "publish", "auto")),
)
QUIET = "--use_cpu --disable_tqdm".split()
TRAIN = "train --model base --train_dataset images/train --output_dir out --report_to none --learning_rate 1e-3 --warmup_steps 0"
TRAIN = [*TRAIN.split(), *"--per_device_train_batch_size 4 --logging_steps 1 --seed 3 --use_cpu --disable_tqdm true".split()]
SAVING = "--max_steps 3 --save_strategy steps --save_steps 1 --save_total_limit 2".split()
RESUME = ("--resume_from_checkpoint", "last")
SIGNALS = ("SIGINT", "SIGTERM")


#: What a command was about when it was killed.
PHASES = (
    *("before anything is written", "a checkpoint is written", "checkpoints change places", "files are written"),
    *("files take their places", "in between"),
)
#: Half-written files and stages, which the next writer removes, locks of nobody, and checkpoints, which are compared by themselves.
_LEFT = re.compile(r"(.*/)?\.[^/]*\.new$|\.robustft_new/|(.*/)?\.robustft_lock$|checkpoint-")


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint would be resumed from."""
    try:
        return bool(whole_state(checkpoint))
    except (OSError, ValueError):
        return False


def last_line(done) -> str:
    """The last line that a command printed on standard error, if it is not a warning."""
    lines = [line for line in done.stderr.strip().splitlines() if not line.startswith("Warning: ")]
    return lines[-1] if lines else ""


@dataclasses.dataclass
class Job:
    """
    A command that changes something.

    Args:
        command: As it is given the first time, and again unless it trains.
        processes: So many of them.
        starts_from: A job whose folder it works on.
        hub: Whether what counts is on the Hub.
        in_parts: Whether it keeps what it has done and goes on from there.
    """

    command: Sequence[str]
    processes: int = 1
    starts_from: str | None = None
    hub: bool = False
    in_parts: bool = False

    @property
    def resumes(self) -> bool:
        return "--save_steps" in self.command


def jobs() -> dict[str, Job]:
    """All jobs of the campaign, by name."""
    from hf_robustft.cli.train_arguments import CHOICES
    from hf_robustft.training.methods import METHODS

    found = {f"train, {method}": Job([*TRAIN, *SAVING, "--method", method, "--templates", "imagenet-croft-7"]) for method in METHODS}
    sets = "--eval_datasets images/test images/held_out:validation".split()
    for method in ("carot", "tracer", "ft"):
        found[f"train, {method}, streamed"] = Job([*TRAIN, *SAVING, "--method", method, "--streaming"])
        found[f"train, {method}, 2 processes"] = Job([*TRAIN, *SAVING, "--method", method, "--per_device_train_batch_size", "2"], 2)
    none = "--max_steps 1 --save_strategy no".split()
    found["train and finish, carot"] = Job([*TRAIN, *SAVING, *sets, "--method", "carot", "--save_predictions", "--fold_temperature"])
    for method in CHOICES:
        if method not in METHODS and method != "zero_shot":
            # What trains nothing takes no settings of training.
            words = [*TRAIN[:7], "--use_cpu", "--disable_tqdm", "true"] if method in ("tip_adapter", "model_stock") else [*TRAIN, *none]
            merged = ["--finetuned_model", "runs/one", "runs/two"] if method == "model_stock" else []
            found[f"train, {method}"] = Job([*words, *sets, "--method", method, *merged], starts_from="seeds" if merged else None)
    found["train, zero_shot"] = Job([*TRAIN[:7], *QUIET[:1], *sets, "--method", "zero_shot", "--disable_tqdm", "true"])
    found["evaluate"] = Job(["evaluate", "base", *sets, "--output_dir", "out", "--save_logits", *QUIET])
    found["calibrate"] = Job(
        ["calibrate", "out", "--dataset", "images/held_out", "--eval_datasets", "images/test", *QUIET], starts_from="finished"
    )
    watched = ["--reference", "known", "--stream", "images", "--output_dir", "out", "--batch_size", "4"]
    found["watch"] = Job(["watch", "runs/one", *watched, *QUIET], starts_from="runs", in_parts=True)
    found["predict"] = Job(["predict", "runs/one", "images", "--output", "out/answers.csv", "--batch_size", "4", *QUIET], starts_from="runs")
    exported = ["export", "runs/one", "--output_dir", "out", "--dataset", "images/held_out", "--precision", "fp32", "int8"]
    found["export"] = Job([*exported, "--min_agreement", "0.1", "--text", *QUIET], starts_from="runs")
    found["demo"] = Job(["demo", "runs/one", "--dataset", "images/held_out", "--space", "out", *QUIET], starts_from="runs")
    moved = ["--data", "test=images/test", "held_out=images/held_out", "--output", "out/verification.json", "--markdown", "out/verification.md"]
    found["verify"] = Job(["verify", "runs/one", *moved, "--overwrite", *QUIET], starts_from="runs")
    found["publish"] = Job(["publish", "out", "--repo_id", "alice/clip", "--retries", "0"], starts_from="finished", hub=True)
    compared = ["--train_dataset", "images/train", "--model", "base", "--eval_datasets", *sets[1:], "--max_steps", "1"]
    compared += ["--per_device_train_batch_size", "4", "--jobs", "1", "--learning_rates", "1e-3", "--seeds", "0", "--use_cpu"]
    found["compare"] = Job(["compare", *compared, "--methods", "flyp", "ft", "wise_ft", "--output_dir", "out"])
    found["compare, finished runs"] = Job(["compare", "runs/one", "runs/two", "--output_dir", "out"], starts_from="runs")
    chooses = TRAIN.index("--learning_rate")
    found["auto"] = Job([*TRAIN[:chooses], *TRAIN[chooses + 2 :], *sets, "--method", "auto", "--max_steps", "1"])
    return found


class Campaign:
    """
    Kills commands in `place`, restarts them, and counts what became of it.

    Args:
        place: A folder for all.
        server: Where processes are forked.
        hub: Where `publish` uploads to.
    """

    def __init__(self, place: Path, server: ForkServer | None = None, hub: LoopbackHub | None = None):
        self.place, self.server, self.hub = place, server, hub
        self.jobs = jobs()
        self.counts: collections.Counter = collections.Counter()
        self.lost: list[str] = []
        self.undisturbed: dict[str, tuple[dict[str, bytes], list[str], float]] = {}
        self._make_inputs(place / "inputs")

    def _make_inputs(self, folder: Path) -> None:
        import torch
        from transformers import CLIPModel

        torch.manual_seed(0)
        CLIPModel(tiny_config()).save_pretrained(folder / "base")
        tiny_processor().save_pretrained(folder / "base")
        for name, n, seed in (("images/train", 12, 0), ("images/test", 8, 1), ("images/held_out", 16, 2), ("known", 24, 3)):
            for i, row in enumerate(image_dataset(n, seed=seed)):
                place = folder / name / CLASSES[row["label"]]
                place.mkdir(parents=True, exist_ok=True)
                row["image"].save(place / f"{i}.png")

    # ---- One command ---------------------------------------------------------------------------------------------

    def run(self, folder: Path, job: Job, command: Sequence[str], kind: str = "none", when: object = "-", **environment):
        """Carry out a command in a folder, killed or not."""
        words = ("-m", "helpers.crashes", kind, when, "--", *command)
        return run_ranks(job.processes, *words, server=self.server, cwd=folder, **environment)

    def fresh(self, job: Job, name: str = "try") -> Path:
        """A folder with the inputs of a job, and what it starts from."""
        folder = self.place / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for path in (self.place / "inputs").iterdir():
            (folder / path.name).symlink_to(path)
        if job.starts_from == "finished":
            shutil.copytree(self.finished("flyp") / "out", folder / "out")
        elif job.starts_from is not None:
            for run, *of in (("one", "flyp"), ("two", "ft") if job.starts_from == "runs" else ("two", "flyp", "4")):
                shutil.copytree(self.finished(*of) / "out", folder / "runs" / run)
        if self.hub is not None:
            self.hub.repositories.clear()
            self.hub.seed("model", "alice/clip", {"model.safetensors": b"of another model", "head.safetensors": b"too"})
        return folder

    def finished(self, method: str, seed: str = "3") -> Path:
        """A folder with a finished run of a method."""
        folder = self.place / f"finished-{method}-{seed}"
        if not folder.exists():
            sets = ["--eval_datasets", "images/test", "images/held_out:validation"]
            command = [*TRAIN, *sets, "--method", method, "--max_steps", "1", "--save_strategy", "no", "--save_predictions", "--seed", seed]
            done = self.run(self.fresh(Job(()), folder.name), Job(()), command)
            assert done.returncode == 0, done.stderr[-3000:]
        return folder

    def found(self, folder: Path, job: Job) -> dict[str, bytes]:
        """What matters of a folder, and of the Hub: neither locks of nobody, nor half-written files, which the next writer removes."""
        found = contents(folder / "out") if (folder / "out").exists() else {}
        found = {name: content for name, content in found.items() if not _LEFT.match(name) or "checkpoint-" in name}
        if job.hub:
            found |= {f"hub: {name}": content for name, content in self.hub.files("model", "alice/clip").items()}
        return found

    def whole(self, name: str) -> tuple[dict[str, bytes], list[str], float]:
        """Of the undisturbed command: what it leaves, its moments, and its processor time."""
        if name not in self.undisturbed:
            job = self.jobs[name]
            folder = self.fresh(job)
            done = self.run(folder, job, job.command, "moments", folder / "moments")
            assert done.returncode == 0, f"{name}: {done.stderr[-3000:]}"
            *moments, last = (folder / "moments").read_text().splitlines()
            self.undisturbed[name] = self.found(folder, job), moments, float(last)
        return self.undisturbed[name]

    # ---- Kills ---------------------------------------------------------------------------------------------------

    def kill(self, name: str, kind: str, when: object) -> str:
        """
        Kill a command, or send it a signal, and give it again; returns what became of it: "equal", "refused", "lost", or "ended"
        where it was faster.
        """
        job, (want, _, _) = self.jobs[name], self.whole(name)
        folder = self.fresh(job)
        before = self.found(folder, job)
        done = self.run(folder, job, job.command, kind, when)
        if done.returncode == 0:
            return "ended"
        phase = self.phase(folder / "out")
        # Before a command listens, and after it has ended, the system answers a signal.
        answered = done.returncode in (130, 143) and last_line(done) or done.returncode in (-signal.SIGINT, -signal.SIGTERM)
        if kind in SIGNALS and ("Traceback" in done.stderr or not answered):
            result, why = "lost", f"exit status {done.returncode}: {done.stderr[-2000:]}"
        else:
            result, why = self.after(folder, job, before, want)
        self.counts[name, {"after": "random", **dict.fromkeys(SIGNALS, "SIGINT or SIGTERM")}.get(kind, "injected"), phase, result] += 1
        if result == "lost":
            self.lost.append(f"{name}, {kind} {when}, {phase}: {why}")
            shutil.rmtree(self.place / f"lost-{len(self.lost)}", ignore_errors=True)
            shutil.copytree(folder, self.place / f"lost-{len(self.lost)}", symlinks=True)
        return result

    def after(self, folder: Path, job: Job, before: dict[str, bytes], want: dict[str, bytes]) -> tuple[str, object]:
        """Give a command again, as the guide says, and compare with what the undisturbed one left."""
        command = list(job.command)
        if job.resumes and list((folder / "out").glob("checkpoint-*")):
            command += RESUME
        if job.starts_from == "finished" and not job.hub:
            # What was calibrated twice is another thing: the next reader ends a change that counts, or nothing has happened.
            settle(folder / "out")
            if not differing(self.found(folder, job), want):
                return "equal", ""
            if changed := [name for name in differing(self.found(folder, job), before) if not name.startswith(".")]:
                return "lost", changed
        done = self.run(folder, job, command)
        if done.returncode == 2 and job.resumes and command != list(job.command) and "No checkpoint in" in done.stderr:
            done = self.run(folder, job, job.command)
        if done.returncode != 0:
            refused = done.returncode == 2 and last_line(done).startswith("error: ") and "Traceback" not in done.stderr
            return ("refused" if refused else "lost"), done.stderr[-2000:]
        wrong = differing(self.found(folder, job), want)
        return ("lost", wrong) if wrong else ("equal", "")

    def every_moment(self, name: str, most: int = 4) -> None:
        """
        What a kill at each moment of a command would leave. It is given again for none of them: the last whole checkpoint has, to
        the byte, what the undisturbed run saved at that step, and the other files are what they were between two changes of
        them, of which there may be so many; what follows from these is known. A command that works in parts has as many as there are
        parts, and is given again from each.
        """
        job, (want, _, _) = self.jobs[name], self.whole(name)
        folder, copies, steps, seen = self.fresh(job), self.place / "copies", {}, []
        shutil.rmtree(copies, ignore_errors=True)
        done = self.run(folder, job, job.command, "copies", copies)
        assert done.returncode == 0, done.stderr[-3000:]
        assert not differing(self.found(folder, job), want), name
        shutil.copytree(folder / "out", copies / "9999-end", symlinks=True)
        identity, files._identity = files._identity, lambda folder: 0
        try:
            for copy in sorted(copies.iterdir()):
                phase, names = self.phase(copy), {path.name for path in copy.iterdir()}
                result, why, rest = "equal", "", None
                try:
                    settle(copy)
                    settle_checkpoints(copy)
                    rest = {path: content for path, content in contents(copy).items() if not _LEFT.match(path)}
                    whole = next(filter(is_whole, reversed(step_folders(copy))), None)
                    if whole and differing(contents(whole), steps.setdefault(whole.name, contents(whole))) or steps and (whole is None or max(steps) != whole.name):
                        result, why = "lost", f"{whole} after {sorted(steps)}"
                except (OSError, ValueError) as error:
                    result, why = "refused", str(error)
                seen.append((copy, phase, result, why, rest, not {STAGE, READY} & names and "-torn-" not in copy.name))
        finally:
            files._identity = identity
        states = []
        for copy, phase, *_, rest, quiet in seen:
            if quiet and rest not in states:
                states.append(rest)
                if job.in_parts:
                    self._given_again(name, copy, phase)
        assert job.in_parts or len(states) <= most, f"{name}: {[sorted(state) for state in states]}"
        for copy, phase, result, why, rest, _ in seen:
            copied = copy.name
            if result == "equal" and rest not in states:
                result, why = "lost", min((differing(rest, state) for state in states), key=len)
            self.counts[name, "copied", phase, result] += 1
            if result != "equal":
                self.lost.append(f"{name}, {copied}, {phase}, {result}: {why}")

    def _given_again(self, name: str, out: Path, phase: str) -> None:
        """Give a command again from what a kill has left in a folder, `out`."""
        job, (want, _, _) = self.jobs[name], self.whole(name)
        folder = self.fresh(job)
        shutil.copytree(out, folder / "out", symlinks=True)
        result, why = self.after(folder, job, {}, want)
        self.counts[name, "given again", phase, result] += 1
        if result != "equal":
            self.lost.append(f"{name}, given again from {out.name}, {phase}, {result}: {why}")

    @staticmethod
    def phase(out: Path) -> str:
        """What a command was about when it was killed, by what it left in its folder."""
        names = {path.name for path in out.iterdir()} if out.exists() else set()
        if ".robustft_ready" in names:
            return "files take their places"
        if ".robustft_new" in names:
            return "files are written"
        if ".robustft_former" in names:
            return "checkpoints change places"
        if ".robustft_checkpoint" in names:
            return "a checkpoint is written"
        if ".answers.csv.parts" in names:
            return "files are written"
        return "in between" if names - {LOCK} else "before anything is written"

    def campaign(self, kills: int, names: Sequence[str], seed: int, until: float, say: Callable = print) -> None:
        """So many kills, two thirds of them at injected moments, spread over the commands."""
        draw = random.Random(seed)
        for number in range(10 * kills):
            done = sum(count for (_, kind, _, _), count in self.counts.items() if kind not in ("copied", "given again"))
            if done >= kills or time.time() > until:
                return
            name = names[number % len(names)]
            _, moments, seconds = self.whole(name)
            if number // len(names) % 3 == 2:
                kind, when = draw.choice(("after", "after", *SIGNALS)), f"{draw.uniform(0.02, 1) * seconds:.4f}"
            else:
                kind, when = draw.choice(("at", "torn")), draw.randint(1, len(moments))
            result = self.kill(name, kind, when)
            say(f"{time.strftime('%X')} {done + 1}: {name}, {kind} {when}: {result} {self.lost[-1:] if result == 'lost' else ''}", flush=True)

    def table(self) -> str:
        """What became of the kills, by command, and while what was done, in Markdown."""
        rows = collections.defaultdict(collections.Counter)
        for (name, kind, phase, result), count in self.counts.items():
            for row in (name, "all", f"of them: {kind}"):
                rows[row][phase] += count
                rows[row][result] += count
        order = [*self.jobs, "all"]
        phases = [phase for phase in PHASES if rows["all"][phase]]
        results = ("equal", "refused", "lost")
        lines = [f"| Killed while | {' | '.join((*phases, *results))} |", f"|---{'|---:' * (len(phases) + 3)}|"]
        for name in (*filter(rows.__contains__, order), *sorted(rows.keys() - set(order))):
            lines.append(f"| {' | '.join((name, *(str(rows[name][column] or '') for column in phases), *(str(rows[name][result]) for result in results)))} |")
        return "\n".join(lines)


@contextlib.contextmanager
def campaign_in(place: Path):
    """A campaign with a server of its own and a Hub on the loopback interface."""
    with LoopbackHub() as hub:
        environment = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": None, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_alice"}
        environment |= {"HF_HOME": str(place / "hf"), "MPLBACKEND": "agg", "no_proxy": "127.0.0.1,localhost"}
        server = ForkServer(environment, MODULES)
        try:
            yield Campaign(place, server, hub)
        finally:
            server.kill()


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
            running.campaign(given.kills, chosen, given.seed, time.time() + 60 * given.minutes)
        finally:
            print(running.table(), *running.lost, sep="\n")
            if given.table:
                given.table.write_text(running.table() + "\n")
    sys.exit(bool(running.lost))
