# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Measure again what a model's card claims, and say claim by claim whether it holds within its noise.

    hf-robustft verify outputs/carot
    hf-robustft verify owner/name --revision main --output verification.json --markdown verification.md
    hf-robustft verify outputs/mine --data test=my_images/test sketches=my_sketches validation=my_images/validation

Reads evaluation.json, robustft.json and README.md of the model. Data sets go by the names that they had then; --data says where
one lies now. The same images by the same versions must agree but for rounding; other versions may move a number by half of its
standard error; of other images the two samples are tested. Exit status: 0 if all claims hold, 1 if one fails, 3 if none fails and
some could not be measured, each with its reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..data.bad_images import DEFAULT_THRESHOLD, BadImages
from ..data.messages import one_line, quoted
from ..data.packaged import CHECKPOINTS
from ..evaluation.collect import collect_logits
from ..evaluation.detector import OpenSetDetector
from ..evaluation.evaluator import Evaluator
from ..evaluation.prediction_sets import ConformalClassifier
from ..evaluation.report import EvaluationReport
from ..evaluation.temperature import TemperatureScaling
from ..modeling.checkpoint import load_dual_encoder, load_processor
from ..modeling.checkpoint_file import checkpoint_folder, is_packaged, local_folder
from ..modeling.features import logit_scale
from ..modeling.heads import load_head
from ..modeling.metadata import METADATA_FILE
from ..modeling.model_files import content_hash, has_trained_head, reading
from ..modeling.output_folders import check_output_dir
from ..modeling.zero_shot import HEAD_FILE
from ..publishing.card_file import CARD_FILE
from ..publishing.card_sections import FOLDED_SINCE
from ..publishing.claim_noise import largest_row, logit_rounding
from ..publishing.claims import Comparison, compare_reports, other_code, unreported_errors
from ..publishing.detail_claims import derived_claims, detail_claims
from ..publishing.eval_results import fetch_eval_results
from ..publishing.folder_claims import (
    ClaimingFolder,
    card_claims,
    fit_claims,
    fit_claims_not_measured,
    leaderboard_claims,
    scale_claims,
)
from ..publishing.open_set_section import leading_score
from ..publishing.run_folder import EVALUATION_FILE
from ..publishing.unknown_choice import logits_of_unknown
from ..publishing.verification import Verification, described_code
from .claimed_sets import ClaimedSets, claimed_sets
from .commands import CommandParser, RunOptions, check_revision, option, quiet_if_asked
from .verify_rules import check_verified_output, named_places


@dataclass(kw_only=True)
class VerifyOptions:
    """What is verified, and where its data are."""

    model: str = option(
        f"Folder or Hub id of a model with its results, or one of the package: {quoted(tuple(CHECKPOINTS))}.", positional=True, metavar="MODEL"
    )
    data: list[str] = option(
        "Where data sets lie now, each as NAME=PLACE: a name in the results, and a folder, a .parquet file, a Hub id, or a name of the "
        "registry (imagenet-r=/data/imagenet-r is a copy of it).",
        [],
        metavar="NAME=PLACE",
    )
    output: str | None = option("JSON file of all claims and verdicts.", None, metavar="FILE")
    markdown: str | None = option("The table as a markdown file.", None, metavar="FILE")
    overwrite: bool = option("Replace these files if they are there.", False)
    revision: str | None = option("Commit, branch or tag of MODEL on the Hub.", None)
    image_column: str | None = option("Column of the images in data of --data.", None)
    label_column: str | None = option("Column of the labels in data of --data.", None)
    group_column: str | None = option("Column of what images in data of --data have in common, as it was given then.", None)


def parser() -> CommandParser:
    """The parser of `hf-robustft verify`."""
    return CommandParser((VerifyOptions, RunOptions), prog="hf-robustft verify", description=__doc__)


def run(arguments: Sequence[str]) -> int:
    """
    Carry out what `arguments` say; returns the exit code.

    Raises:
        ValueError: If options or data do not fit the model.
        OSError: If model or data cannot be read, or a file cannot be written.
    """
    options, running = parser().parse(arguments)
    found = verify(options, running)
    print(found.table())
    # Another command may have written them meanwhile.
    check_outputs(options)
    written = found.save(options.output, options.markdown)
    if written:
        print(f"Saved to {', '.join(map(str, written))}")
    return found.status


def check_outputs(options: VerifyOptions) -> None:
    """Refuse files that cannot be written, by the `options`. Raises ValueError as [`check_verified_output`]."""
    for name in ("output", "markdown"):
        if getattr(options, name) is not None:
            check_verified_output(name, getattr(options, name), options.overwrite)


def verify(options: VerifyOptions, running: RunOptions) -> Verification:
    """
    Measure again.

    Args:
        options ([`VerifyOptions`]), running ([`RunOptions`]): The parts of the command line.

    Returns:
        [`Verification`]: The claims and what became of them.

    Raises:
        ValueError, OSError: As [`run`].
    """
    places = named_places(options.data)
    check_outputs(options)
    for name in ("output", "markdown"):
        if getattr(options, name) is not None:
            check_output_dir(Path(getattr(options, name)).expanduser().parent, f"--{name}")
    check_revision(options.model, options.revision)
    state = PartialState(cpu=running.use_cpu)
    if state.num_processes > 1:
        raise ValueError("hf-robustft verify works in one process; start it without a launcher.")
    quiet_if_asked(running)
    here = local_folder(options.model)
    with reading(here) if here is not None and not is_packaged(options.model) else nullcontext():
        folder = checkpoint_folder(options.model, METADATA_FILE, EVALUATION_FILE, CARD_FILE, HEAD_FILE, revision=options.revision)
        # All files are of the commit that the first of them is of.
        revision = options.revision if here is not None else folder.name
        of = ClaimingFolder.read(folder, options.model)
        # The data before any weights.
        processor = load_processor(options.model, revision=revision, option="MODEL")
        sets = claimed_sets(of, places, options)
        claims, notes = card_claims(of)
        if here is None:
            try:
                fetch_eval_results(options.model, folder)
            except OSError as error:
                notes.append(f"What the model says to leaderboards on the Hub cannot be read, and was not compared: {one_line(error).rstrip('.')}.")
        claims += [*leaderboard_claims(of), *derived_claims(of.report, of.shift_mean, of.facts.get("thresholds"))]
        model, _ = load_dual_encoder(options.model, revision=revision, option="MODEL")
        head = load_head(folder) if has_trained_head(folder, of.facts) else None
        digest = content_hash(folder)
    measured = _Measuring(of, sets, running, state, model.to(state.device), head if head is None else head.to(state.device), processor)
    fits = measured.fits()
    report, results = measured.results()
    facts: dict[str, Any] = {"files_sha256": digest, **({} if here is not None else {"commit": folder.name})}
    if report is not None:
        facts |= described_code(measured.differing, of.report.settings, report.settings)
        if measured.differing:
            notes.append(f"Not by the same code as the claims: {'; '.join(measured.differing)}.")
    notes += sets.notes
    notes.append("The results of other models in the folder, such as that before training, are claims about those, and not measured here.")
    score = leading_score(of.report, of.facts.get("detector"))
    return Verification(options.model, [*claims, *measured.scales, *fits, *results], facts, notes, score)


class _Measuring:
    """The model of a folder, measured as it was for its results."""

    def __init__(self, of: ClaimingFolder, sets: ClaimedSets, running: RunOptions, state: PartialState, model, head, processor):
        self.of, self.sets, self.model, self.head, self.processor = of, sets, model, head, processor
        self.reading = {"batch_size": running.batch_size, "num_workers": running.num_workers, "progress": not running.disable_tqdm}
        # As every command reads images that are broken: they are counted, and their number is a claim.
        self.bad_images = BadImages("skip", DEFAULT_THRESHOLD)
        self.state, self.differing = state, []
        self.scales = scale_claims(of, model)

    def d(self) -> float:
        scale = logit_scale(self.model).item() if self.head is None else max(largest_row(self.head.weight), logit_scale(self.model).item())
        return logit_rounding(scale, self.of.report.settings.get("dtype", "float32"))

    def fits(self) -> list:
        """The claims on what was fitted on validation images."""
        if not {"temperature", "detector", "prediction_sets"} & set(self.of.facts):
            return []
        name, images = self.of.fitted_on, self.sets.validation
        if images is None:
            return fit_claims_not_measured(self.of, self.sets.missing.get(name, "the folder does not say on which images it was fitted"))
        if not self.sets.same[name]:
            return fit_claims_not_measured(self.of, f"the images of {name} are not those of the fit")
        bad = self.bad_images.of(f"data set {name!r}")
        logits, labels = collect_logits(self.model, images, self.processor, head=self.head, bad_images=bad, **self.reading)
        missing = self.sets.missing.get(self.of.unknown)
        unknown, why = None, f"it was chosen on images of {self.of.unknown}, which cannot be read: {missing}"
        if self.sets.unknown is not None:
            why = f"the images of {self.of.unknown} are not those on which it was chosen"
            if self.sets.same[self.of.unknown]:
                unknown = logits_of_unknown(self.model, self.sets.unknown, images, self.processor, self.head, self.bad_images, self.reading)
        return fit_claims(self.of, self.model, logits, labels, self.d(), unknown, why)

    def results(self) -> tuple[EvaluationReport | None, list]:
        """What is measured now, and the claims on the results."""
        claimed, sets = self.of.report, self.sets
        if not sets.benchmarks:
            by = Comparison(sets.same, sets.missing, [], self.d())
            return None, [*compare_reports(claimed, None, by), *detail_claims(claimed, None, by)]
        settings = claimed.settings
        names = ("n_bins", "bootstrap_draws", "seed", "knn_k")
        options = {name: settings[name] for name in names if name in settings}
        evaluator = Evaluator(
            sets.benchmarks,
            self.processor,
            knn_bank=sets.bank,
            bad_images=self.bad_images,
            kept_bytes=0,
            thresholds=self.of.facts.get("thresholds"),
            **options,
            **self.reading,
        )
        since, of_sets = settings.get(FOLDED_SINCE), None
        if since is not None:
            # They were measured before this temperature was folded in.
            TemperatureScaling(1 / since).fold_into(self.model, self.head)
            sets.missing["sets"] = "the sets were fitted again since they were measured"
        elif "prediction_sets" in self.of.facts and claimed.prediction_sets is not None:
            of_sets = ConformalClassifier.from_pretrained(self.of.folder)
            try:
                of_sets.check(of_sets.class_names, logit_scale(self.model))
            except ValueError as error:
                of_sets, sets.missing["sets"] = None, str(error).rstrip(".")
        of_it = OpenSetDetector.from_pretrained(self.of.folder) if since is None and "detector" in self.of.facts else None
        report = evaluator.evaluate(self.model, head=self.head, name=claimed.model, prediction_sets=of_sets, detector=of_it)
        if sets.bank is None and "knn_bank" in settings:
            sets.missing["knn"] = f"the bank {settings['knn_bank']} of the score knn cannot be read"
        self.differing = other_code(settings, report.settings)
        affected = [name for name, same in sets.same.items() if self.differing or not same]
        errors: dict = {}
        if affected:
            labelled = evaluator.predictions.labelled
            correct = {name: item.correct for name, item in labelled.items()}
            errors = unreported_errors(claimed, evaluator.predictions, correct, affected)
        by = Comparison(sets.same, sets.missing, self.differing, self.d(), errors)
        return report, [*compare_reports(claimed, report, by), *detail_claims(claimed, report, by)]
