# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Write a checkpoint as files that run without this package, and check that they decide as it does.

    hf-robustft export outputs/carot --dataset my_images/validation
    hf-robustft export outputs/carot --dataset my_images/validation --precision fp32 int8 --min_agreement 0.97 --input uint8
    hf-robustft export openai/clip-vit-base-patch16 --class_names names.txt --text
    hf-robustft export emoji_clip_carot --format torch_export

One graph holds image tower, class head, temperature, open-set score and threshold; how images are resized and cut is in
preprocess.json, with a snippet in README.md. Each file is compared with the pipeline on images of --dataset (else on those of the
package for its own models, else on random pictures), and refused where less than 99.9 % of the decisions are the same. ONNX
needs pip install "hf_robustft[onnx]".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from ..data.messages import quoted
from ..data.packaged import CHECKPOINTS
from ..deployment.export import check_folder, export_checkpoint
from ..deployment.export_page import table
from ..deployment.exported_classifier import INPUTS
from ..deployment.extras import FORMATS, PRECISIONS, check_export_options
from ..deployment.pipeline import pipeline
from ..files import locked
from ..modeling.checkpoint import own_files
from ..modeling.checkpoint_check import check_config
from ..modeling.checkpoint_file import is_packaged
from ..modeling.metadata import METADATA_FILE, load_robustft_json
from ..modeling.model_files import reading
from ..modeling.output_folders import check_apart
from .calibrate import validation_set
from .commands import CommandParser, RunOptions, check_revision, option, quiet_if_asked
from .data_sets import DataOptions, ask_commits, check_columns, model_classes
from .specs import Spec


@dataclass(kw_only=True)
class ExportOptions:
    """What is written, and on what it is compared."""

    model: str = option(
        f"Folder or Hub id of a dual encoder, or one of the package: {quoted(tuple(CHECKPOINTS))}.", positional=True, metavar="MODEL"
    )
    output_dir: str = option("Folder for the files. An earlier export there is replaced.", "outputs/export")
    format: str = option("'onnx', or 'torch_export' for a .pt2 file.", "onnx", choices=list(FORMATS))
    precision: list[str] = option(
        "One file each: 'fp32', 'fp16', 'int8' (ranges of activations found at run time) or 'int8-static' (ranges from --dataset).",
        ["fp32"],
        choices=list(PRECISIONS),
    )
    input: str = option(
        "'float': normalised images (batch, 3, size, size); 'uint8': levels (batch, size, size, 3), normalised inside.",
        "float",
        choices=list(INPUTS),
    )
    text: bool = option("Write the text tower and its tokenizer too.", False)
    dataset: str | None = option(
        "Validation images to compare on, named as for calibrate.", None, metavar="SET"
    )
    check_images: int = option("How many of these images to compare on, at most.", 512)
    min_agreement: float | None = option(
        "Share of images on which fp16 and int8 must decide the same; 0.999 by default. It is recorded.", None
    )
    opset: int | None = option("Version of ONNX's operators; by default torch's.", None)
    revision: str | None = option("Commit, branch or tag of MODEL on the Hub.", None)


def parser() -> CommandParser:
    """The parser of `hf-robustft export`."""
    parts = (ExportOptions, DataOptions, RunOptions)
    return CommandParser(parts, prog="hf-robustft export", description=__doc__)


def run(arguments: Sequence[str]) -> int:
    """
    Carry out what `arguments` say; returns the exit code.

    Raises:
        ValueError: If options or data do not fit the model or each other, or a file decides otherwise than the pipeline.
        OSError: If model or data cannot be read, or the folder cannot be written.
    """
    options, data, running = parser().parse(arguments)
    given = {"check_images": options.check_images, "batch_size": running.batch_size, "opset": options.opset}
    check_export_options(options.format, options.precision, options.min_agreement, has_images=options.dataset is not None, **given)
    dataset = None if options.dataset is None else Spec.parse(options.dataset).folder
    check_apart(options.output_dir, {"MODEL": None if is_packaged(options.model) else options.model, f"--dataset {options.dataset}": dataset})
    check_revision(options.model, options.revision)
    check_folder(options.output_dir)
    state = PartialState(cpu=running.use_cpu)
    if state.num_processes > 1:
        raise ValueError("hf-robustft export works in one process; start it without a launcher.")
    quiet_if_asked(running)
    with locked(options.output_dir, "hf-robustft export"):
        return _run(options, data, running, state.device, given)


def _run(options: ExportOptions, data: DataOptions, running: RunOptions, device: torch.device, given: Mapping[str, Any]) -> int:
    policy = data.policy()
    is_here = Path(options.model).is_dir() and not is_packaged(options.model)
    with reading(options.model) if is_here else nullcontext():
        if is_here:
            check_config(Path(options.model), options.model)
        folder = own_files(options.model, options.revision)
        facts = load_robustft_json(folder) if folder is not None and (folder / METADATA_FILE).is_file() else {}
        known = model_classes(data, facts.get("class_names", ()), facts.get("templates", ()), facts.get("label_names"))
        if known is None:
            raise ValueError(f"`MODEL {options.model}` names no classes, which an export has in it; give them by --class_names.")
        ask_commits([options.dataset])
        check_columns([options.dataset], data, measured=[])
        benchmark = None if options.dataset is None else validation_set(options.dataset, data, known)
        # The data before any weights.
        names = known.class_names if data.class_names or not facts.get("class_names") else None
        prompts = {"class_names": names, "templates": None if names is None and data.templates is None else known.templates}
        classify = pipeline(options.model, revision=options.revision, require_detector=False, device=device, **prompts)
    if classify.detector is None and classify.thresholds is None:
        print("Note: there is no open-set detector for these classes, so nothing will be called unknown.")
    found = export_checkpoint(
        classify,
        options.output_dir,
        format=options.format,
        precisions=options.precision,
        input=options.input,
        text=options.text,
        dataset=benchmark,
        min_agreement=options.min_agreement,
        num_workers=running.num_workers,
        bad_images=policy,
        progress=not running.disable_tqdm,
        **given,
    )
    check = found["check"]
    print(table(found))
    print(f"Compared on {check['n']} images: {check['images']}; {check['batch_size']} at once, {check['threads']} thread{'s' if check['threads'] > 1 else ''}.")
    for note in found["notes"]:
        print(f"Note: {note}")
    print(f"Saved to {options.output_dir}: {', '.join([*found['files'], *([found['text']['file']] if options.text else [])])}")
    return 0
