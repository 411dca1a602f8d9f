# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Commands are killed, given again, given twice at once, and what became of it is counted."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hub.loopback import LoopbackHub

from hf_robustft import files
from hf_robustft.files import LOCK, READY, STAGE, settle
from hf_robustft.publishing.run_folder import settle_checkpoints, step_folders
from hf_robustft.training.checkpoint_files import whole_state

from . import CLASSES, image_dataset, tiny_config, tiny_processor
from .campaign_jobs import TRAIN, Job, jobs
from .crashes import contents, differing
from .forked import ALONE, PRELOADED, SECONDS, ForkServer, fork_server, run_ranks

#: What the commands import beyond what every test does.
MODULES = (
    *PRELOADED,
    *(f"hf_robustft.cli.{name}" for name in ("evaluate", "calibrate", "compare", "predict", "export", "demo", "watch", "verify", "publish", "auto")),
)
RESUME = ("--resume_from_checkpoint", "last")
SIGNALS = ("SIGINT", "SIGTERM")
TWICE = "two at once"

#: What a command was about when it was killed.
PHASES = (
    *("before anything is written", "a checkpoint is written", "checkpoints change places", "files are written"),
    *("files take their places", "in between", TWICE),
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


def processes_in(folder: Path) -> list[int]:
    """The processes that have a folder for their own, where the system says."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if Path(os.readlink(place)) == folder.resolve():
                found.append(int(place.parent.name))
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
        #: Of the runs that a command starts, in turn, how many moments each has.
        self.runs: dict[str, list[int]] = {}
        self.clock: dict[str, float] = {}
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
        folder, compared = self.place / name, self.compared() if job.starts_from == "compared" else None
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for path in (self.place / "inputs").iterdir():
            (folder / path.name).symlink_to(path)
        if job.starts_from == "finished":
            shutil.copytree(self.finished("flyp") / "out", folder / "out")
        elif compared is not None:
            shutil.copytree(compared / "runs", folder / "out" / "comparison" / "runs")
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

    def compared(self) -> Path:
        """A folder with the runs that `auto` has compared."""
        folder = self.place / "compared"
        if not folder.exists():
            auto = self.jobs["auto"]
            made = self.fresh(auto)
            done = self.run(made, auto, auto.command)
            assert done.returncode == 0, done.stderr[-3000:]
            (made / "out" / "comparison").rename(folder)
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
            of_runs = collections.Counter(line.split()[1] for line in moments if line.startswith("run "))
            self.runs[name] = [of_runs[run] for run in sorted(of_runs, key=int)]
            moments = [line for line in moments if not line.startswith("run ")]
            self.undisturbed[name] = self.found(folder, job), moments, float(last.split()[0])
            self.clock[name] = float(last.split()[1])
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
            if wrong := differing(self.found(folder, job), want):
                self.counts[name, "injected", "in between", "lost"] += 1
                self.lost.append(f"{name}, {kind} {when}: exit status 0 and {wrong}")
            return "lost" if wrong else "ended"
        phase, stays = self.phase(folder / "out"), [] if kind not in SIGNALS else processes_in(folder)
        if done.returncode in (130, 143):
            stays += [path for path in contents(folder / "out") if _LEFT.match(path) and "checkpoint-" not in path]
        # Before a command listens, and after it has ended, the system answers a signal.
        answered = done.returncode in (130, 143) and last_line(done) or done.returncode in (-signal.SIGINT, -signal.SIGTERM)
        if kind in SIGNALS and ("Traceback" in done.stderr or not answered or stays):
            result, why = "lost", f"exit status {done.returncode}, left {stays}: {done.stderr[-2000:]}"
        else:
            result, why = self.after(folder, job, before, want)
        self.counts[name, {"after": "random", **dict.fromkeys(SIGNALS, "SIGINT or SIGTERM")}.get(kind, "injected"), phase, result] += 1
        if result == "lost":
            self.lost.append(f"{name}, {kind} {when}, {phase}: {why}")
            shutil.rmtree(self.place / f"lost-{len(self.lost)}", ignore_errors=True)
            shutil.copytree(folder, self.place / f"lost-{len(self.lost)}", symlinks=True)
        return result

    def twice(self, name: str, delay: float) -> str:
        """
        Give a command, and the same again so many seconds later: "refused" in one line that names the first, or "equal" if both came to
        their end; in the folder is what one alone leaves, or it is "lost".
        """
        job, (want, _, _) = self.jobs[name], self.whole(name)
        folder, said = self.fresh(job), self.place / "said"
        words = ("-m", "helpers.crashes", "beside", said, "--", *job.command)
        delays = ("0", f"{delay:.3f}")
        (self.server or fork_server()).run(words, ranks=[{"DELAY": each} for each in delays], timeout=SECONDS, cwd=folder, **ALONE)
        lines = [[line for line in Path(f"{said}-{each}").read_text().splitlines() if not line.startswith("Warning: ")] for each in delays]
        ended, why = sorted(of[-1].removeprefix("exit status ") for of in lines), differing(self.found(folder, job), want)
        refused = next((of[-2] for of in lines if of[-1] == "exit status 2" and len(of) > 1), "")
        named = re.match(r"error: .* is in use by `hf-robustft [^`]+` \(process \d+ on ", refused)
        result = "lost" if why else "equal" if ended == ["0", "0"] else "refused" if ended == ["0", "2"] and named else "lost"
        self.counts[name, TWICE, TWICE, result] += 1
        if result == "lost":
            self.lost.append(f"{name}, {TWICE}, {delay}: {why} {lines}")
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
        shutil.rmtree(folder / "out", ignore_errors=True)
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
            done = sum(count for (_, kind, _, _), count in self.counts.items() if kind not in ("copied", "given again", TWICE))
            if done >= kills or time.time() > until:
                return
            name = names[number % len(names)]
            _, moments, seconds = self.whole(name)
            if number // len(names) % 3 == 2:
                # One that waits for others takes next to no time of a processor.
                most, unit = (self.clock[name], "c") if self.jobs[name].has_runs else (seconds, "")
                kind, when = draw.choice(("after", "after", *SIGNALS)), f"{draw.uniform(0.02, 1) * most:.4f}{unit}"
            elif self.runs[name] and number // len(names) % 3 == 1:
                run = draw.randint(1, len(self.runs[name]))
                kind, when = draw.choice(("at_run", "torn_run")), f"{run}:{draw.randint(1, self.runs[name][run - 1])}"
            else:
                kind, when = draw.choice(("at", "torn")), draw.randint(1, len(moments))
            result = self.kill(name, kind, when)
            say(f"{time.strftime('%X')} {done + 1}: {name}, {kind} {when}: {result} {self.lost[-1:] if result == 'lost' else ''}", flush=True)

    def pairs(self, count: int, names: Sequence[str], seed: int, until: float, say: Callable = print) -> None:
        """So many times two at once, spread over the commands, the second at any time of the first."""
        draw = random.Random(seed)
        for number in range(count):
            if time.time() > until:
                return
            name = names[number % len(names)]
            self.whole(name)
            delay = draw.uniform(0, 1) * self.clock[name]
            say(f"{time.strftime('%X')} {name}, {TWICE}, {delay:.2f}: {self.twice(name, delay)}", *self.lost[-1:], flush=True)

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
