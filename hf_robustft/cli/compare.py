# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Which method for your data: train several at several rates and seeds, and set them side by side.

    hf-robustft compare
    hf-robustft compare --train_dataset my_images/photo --methods carot flyp tracer --seeds 0 1 2
    hf-robustft compare outputs/carot outputs/flyp outputs/tracer

With nothing given: all methods on Emoji Shift. On your own folder, folders of the same classes beside it are measured as
shifts, and images are held out to validate and test on where there are none. Any other flag of `hf-robustft train` is passed on
to the runs. They are child processes, each in a folder of <output_dir>/runs with a log; the same command goes on where it
was stopped. Or give folders of runs that were trained and measured on the same data. Prints who is ahead, by how much and
whether chance explains it, with tables, and writes comparison.json, comparison.md, frontier.png and
comparison.html, a page that needs no network.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..comparison.measures import ACCURACY, MEAN_PRECISION
from ..comparison.output import check_unclaimed, places, write_comparison
from ..comparison.rules import CONCEPTS, find_rule, reported, sets_of_choice
from ..comparison.runs import Comparison, read_runs
from ..comparison.summary import COMPARISON_FILE, summarise
from ..comparison.tables import terminal_table
from ..data.benchmarks import Benchmark
from ..data.beside import classes_in, sets_within
from ..files import locked
from ..modeling.metadata import METADATA_FILE
from ..modeling.output_folders import check_output_dir
from ..publishing.text import public_text
from .commands import CommandParser, option
from .compare_given import Passed
from .compare_plan import COMPARABLE, plan
from .compare_runs import carry_out, model_bytes, slots
from .first_paths import check_outside_runs
from .merging import MERGEABLE
from .parser import UsageError
from .passed_on import parted
from .reopened import reopened
from .train_arguments import train_parser

#: What finished runs can be compared with.
_OF_RESULTS = ("__output_dir", "__rule")
#: Where runs lie in a folder: in it, in one or several comparisons, or in those of `--method auto`.
_RUNS = ("", "runs/", "comparison/runs/", "*/runs/", "*/comparison/runs/")


@dataclass(kw_only=True)
class CompareOptions:
    """What is compared."""

    folders: list[str] = option("Folders of finished runs, instead of training.", [], positional=True, metavar="DIR")
    methods: list[str] = option(
        "Methods to compare; by default all that fit the data. wise_ft, lines and model_stock merge the runs of another one.", []
    )
    learning_rates: list[float] = option("Rates of every method that trains; by default three around that of each.", [])
    seeds: list[int] = option("Seeds of each method at each rate.", [0, 1])
    finetune_with: str | None = option("The method whose runs are merged, ft by default.", None)
    rule: str | None = option(
        "How a rate and a method are chosen: id, id_within, id_nearest, concepts, shift:<set> or oracle. concepts trains each run of the first seed "
        "twice, the second time without every fifth class, and asks for these: the default where there are ten classes or more. Else by "
        "validation images, where there are any: id_within, without such twins.",
        None,
    )
    jobs: int | None = option("Runs at once; by default one for each GPU, or for each core that the memory has room for.", None)
    output_dir: str = option("Folder for the results, and for the runs in it.", "outputs/compare")
    dry_run: bool = option("Print the commands of the runs, and make none.", False)


def parser() -> CommandParser:
    """The parser of `hf-robustft compare`."""
    found = CommandParser(CompareOptions, prog="hf-robustft compare", description=__doc__)
    found.action_of("methods").choices = list(COMPARABLE)
    found.action_of("finetune_with").choices = list(MERGEABLE)
    return found


def run(arguments: Sequence[str]) -> int:
    """
    Carry out what `arguments` say; returns the exit code: 1 if a run failed.

    Raises:
        ValueError, OSError: As [`compare_methods`] and `read_runs`.
    """
    own, passed = parted(arguments, parser(), train_parser())
    (options,) = parser().parse(own)
    check_outside_runs(vars(options))
    check_output_dir(options.output_dir)
    if options.dry_run and not options.folders:
        return compare_methods(options, passed, arguments)[1]
    with locked(options.output_dir, "hf-robustft compare"):
        return _run(options, own, passed, arguments)


def _run(options: CompareOptions, own: list[str], passed: Passed, arguments: Sequence[str]) -> int:
    if not options.folders:
        return compare_methods(options, passed, arguments)[1]
    words = [word for _, group in passed for word in group] + own
    for folder in map(Path, options.folders):
        if (folder / METADATA_FILE).is_file() or not folder.is_dir():
            continue
        if inner := list(dict.fromkeys(path.parents[1] for where in _RUNS for path in sorted(folder.glob(f"{where}*/{METADATA_FILE}")))):
            raise UsageError(f"{folder} holds several runs; give their folders, {' '.join(f'{path}/*/' for path in inner)}")
        if held := next((path for where in ("", "*/") for path in sorted(folder.glob(f"{where}{COMPARISON_FILE}"))), None):
            raise UsageError(f"{held.parent} holds a comparison, and no runs; give the folders of the runs that it compared")
        if classes_in(folder) or sets_within(folder):
            raise UsageError(f"{folder} is a folder of images, not of a finished run; to train on them, give --train_dataset {folder}")
    flags = [word for word in words if word.startswith("--")]
    given = next((flag for flag in flags if flag.partition("=")[0].replace("-", "_") not in _OF_RESULTS), None)
    if given is not None:
        raise UsageError(f"`{given}` is for runs that are to be made, and {options.folders[0]} is finished; leave one of them out")
    check_unclaimed(options.output_dir, options.folders)
    conclude(options, read_runs(options.folders), arguments)
    return 0


def compare_methods(options: CompareOptions, passed: Passed, arguments: Sequence[str]) -> tuple[dict[str, Any] | None, int]:
    """
    Make the runs that are missing, and compare all of them.

    Args:
        options ([`CompareOptions`]): Which runs.
        passed (`Passed`): What else each is given.
        arguments (`Sequence[str]`): The command line behind `hf-robustft compare`.

    Returns:
        `tuple`: The summary of the runs that there are, `None` without any or after a dry run; and the exit status, 1 if a run failed.

    Raises:
        ValueError: If something that was given cannot be, before the first run.
        OSError: If data cannot be read, or results cannot be written.
    """
    runs = Path(options.output_dir) / "runs"
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError("`hf-robustft compare` starts processes of its own; start it without a launcher")
    if options.jobs is not None and options.jobs < 1:
        raise UsageError(f"`--jobs {options.jobs}` must be at least 1")
    rule = None if options.rule is None else find_rule(options.rule)
    twins = None if rule is None else rule.name == CONCEPTS
    made = plan(options.methods, options.learning_rates, options.seeds, options.output_dir, passed, options.finetune_with, twins)
    if rule is not None:
        rule = find_rule(options.rule, MEAN_PRECISION if made.lists else ACCURACY)
        reported(rule, made.roles, sets_of_choice(rule, made.roles))
    trained = [run for run in made.runs if run.method != "zero_shot" and "leave_out_classes" not in run.settings]
    check_unclaimed(options.output_dir, [runs / run.name for run in trained])
    at_once = slots(options.jobs, "use_cpu" in dict(passed), model_bytes(made.model))
    outcome = carry_out(made, runs, at_once, options.dry_run)
    if outcome is None:
        return None, 0
    finished = [run.name for run in made.runs if run.name in outcome.seconds]
    lacking, summary = [f"{name}: {why}" for name, why in outcome.failed.items()], None
    try:
        if any(run.name in outcome.seconds for run in trained):
            comparison = read_runs([runs / name for name in finished])
            # What was decided counts when the results are read, not only before.
            comparison.notes[:0] = [f"{public_text(note)}{'' if note.endswith(('?', '.')) else '.'}" for note in made.notes]
            if lacking:
                are = "is missing, as it failed" if len(lacking) == 1 else "are missing, as they failed"
                comparison.notes.append(f"{len(lacking)} of {len(made.runs)} runs {are}: {', '.join(outcome.failed)}.")
                comparison.notes += _unlike_seeds(comparison, made.seeds)
            summary = conclude(options, comparison, arguments, made.benchmarks)
    finally:
        for line in lacking:
            print(f"error: {line.rstrip('.')}; its log: {runs / line.partition(':')[0]}.log", file=sys.stderr)
    return summary, 1 if lacking else 0


def _unlike_seeds(comparison: Comparison, seeds: Sequence[int]) -> list[str]:
    """A sentence on candidates of which some of the `seeds` are missing: their means, by which a rule chooses, are of other trainings."""
    found = {item.label: [run.seed for run in runs] for item, runs in comparison.candidates.items()}
    fewer = [f"{label} (of {len(seeds)} seeds {', '.join(map(str, of))})" for label, of in found.items() if None not in of and len(of) < len(seeds)]
    return [f"Means over fewer seeds than the others', by which a rule chooses all the same: {', '.join(fewer)}."] if fewer else []


def conclude(
    options: CompareOptions, comparison: Comparison, arguments: Sequence[str], benchmarks: Sequence[Benchmark] = ()
) -> dict[str, Any]:
    """
    Print the tables of a comparison, and write its files.

    Args:
        options ([`CompareOptions`]), comparison ([`Comparison`]): What is compared, and by which rule.
        arguments (`Sequence[str]`): The command line.
        benchmarks (`Sequence[Benchmark]`, *optional*): The sets of the test, for pictures of the worst mistakes. By default they are
            opened again by the record of a run.

    Returns:
        `dict[str, Any]`: The summary.
    """
    summary = summarise(comparison, options.rule, command=shlex.join(["hf-robustft", "compare", *arguments]))
    summary["places"] = places([run.folder for run in comparison.runs], options.output_dir)
    mistaken = list(dict.fromkeys(item["set"] for item in summary.get("worst_mistakes", ())))
    if mistaken and not benchmarks:
        label = summary["winner"]["candidate"]
        run = next(runs[0] for candidate, runs in comparison.candidates.items() if candidate.label == label)
        benchmarks, why = reopened(run, mistaken)
        if why is not None:
            summary["no_pictures"] = f"{'Some of the' if benchmarks else 'The'} worst mistakes are shown without their pictures: {why}."
            print(f"Note: {summary['no_pictures']}")
    files = write_comparison(summary, options.output_dir, benchmarks)
    print(terminal_table(summary, shutil.get_terminal_size(fallback=(100, 24)).columns))
    print(f"Saved to {options.output_dir}: {', '.join(path.name for path in files)}")
    return summary
