# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Classify any number of images with a checkpoint, and write one file of answers.

    hf-robustft predict outputs/croft photos/ --output answers.csv
    hf-robustft predict outputs/croft 'photos/**/*.jpg' more/1.png --output answers.jsonl --top_k 5
    find photos -name '*.jpg' -print0 | hf-robustft predict outputs/croft --image_list - --output answers.parquet
    hf-robustft predict openai/clip-vit-base-patch16 owner/name/test --class_names names.txt --output answers.csv

Each image has a row: label ("unknown" where the checkpoint's detector says so), probability, nearest_class, score, is_known and
error. An image that cannot be read is a row with its error; the exit status is 0 all the same. A command that was interrupted
goes on where it was when it is given again.
"""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..data.benchmarks import Benchmark, load_benchmark
from ..data.catalog.sets import named_templates, registered_sets
from ..data.class_folders import image_files
from ..data.folders import folder_layout, holds_tars
from ..data.hub import is_hub_id
from ..data.messages import quoted
from ..data.packaged import CHECKPOINTS
from ..data.prompts import read_names_and_templates
from ..deployment.image_sources import DataRows, list_hash, listed_images, named_images
from ..deployment.output_names import check_output
from ..deployment.pipeline import pipeline
from ..deployment.predict import Predicted, predict
from ..evaluation.platt_scaling import FUNCTIONS
from ..modeling.checkpoint import commit_of
from ..modeling.checkpoint_file import is_packaged, local_folder
from ..modeling.metadata import METADATA_FILE
from ..modeling.model_files import content_hash, reading
from ..modeling.output_folders import check_output_dir
from .commands import CommandParser, RunOptions, check_revision, option, quiet_if_asked
from .specs import Spec, own_columns, own_split

#: Labels that the table at the end shows.
_SHOWN = 5


@dataclass(kw_only=True)
class PredictOptions:
    """What is classified, by what."""

    model: str = option(
        f"Folder or Hub id of a checkpoint, or one of the package: {quoted(tuple(CHECKPOINTS))}.", positional=True, metavar="MODEL"
    )
    images: list[str] = option(
        "Image files, folders (searched at any depth) and patterns in quotes; or one data set: a .parquet file, a folder of tars or "
        "parquet files, or owner/name/split on the Hub, which is read as it comes.",
        [],
        positional=True,
        metavar="IMAGES",
    )
    output: str = option("File of the answers: .csv, .jsonl or .parquet.", metavar="FILE")
    image_list: str | None = option(
        "Text file with one path of an image per line, or with paths that zero bytes end; - reads standard input.", None, metavar="FILE"
    )
    top_k: int | None = option("Also give this many of the most probable classes.", None)
    function_to_apply: str | None = option(
        "'softmax' (probabilities of the classes against each other) or 'sigmoid' (of each by itself); by default what the checkpoint "
        "is made for.",
        None,
        choices=list(FUNCTIONS),
    )
    class_names: str | None = option(
        "Text file of other classes than the checkpoint's, one per line, told apart by prompts; any CLIP-like model will do.", None
    )
    templates: str | None = option("Prompts: a text file with one {} per line, or a name such as imagenet-80.", None)
    require_detector: bool = option("Refuse a checkpoint without a detector of unknown images.", False)
    image_column: str | None = option("Column of the images of a data set.", None)
    revision: str | None = option("Commit, branch or tag of MODEL on the Hub.", None)
    fail_if_broken: bool = option("End with an error if an image could not be read; FILE is written all the same.", False)
    overwrite: bool = option("Replace FILE if it is there, and what is left of an interrupted command with other options.", False)


def parser() -> CommandParser:
    """The parser of `hf-robustft predict`."""
    return CommandParser((PredictOptions, RunOptions), prog="hf-robustft predict", description=__doc__)


def run(arguments: Sequence[str]) -> int:
    """Carry out what `arguments` say; returns the exit code. Raises ValueError and OSError as [`predict`], or for several processes."""
    options, running = parser().parse(arguments)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("`hf-robustft predict` works in one process; give each process images and an --output of its own, without a launcher.")
    quiet_if_asked(running)
    check_output(options.output, overwrite=True)
    check_revision(options.model, options.revision)
    check_output_dir(Path(options.output).expanduser().parent, "--output")
    images, given = chosen_images(options)
    names, templates = prompts(options)
    here = None if is_packaged(options.model) else local_folder(options.model)
    given_to_the_model = {"class_names": names, "templates": templates, "function_to_apply": options.function_to_apply}
    with reading(here) if here is not None else nullcontext():
        try:
            device = PartialState(cpu=running.use_cpu).device
            classify = pipeline(
                options.model, revision=options.revision, device=device, require_detector=options.require_detector, **given_to_the_model
            )
        except FileNotFoundError as error:
            if names is not None or METADATA_FILE not in str(error):
                raise
            raise FileNotFoundError(f"{str(error).rstrip('.')}, or say by --class_names what any other model is to tell apart.") from error
        folder = local_folder(options.model)
        weights = commit_of(classify.model) if folder is None else content_hash(folder)
    if classify.detector is None:
        why = "has a detector for its own classes and prompts alone" if classify.detector_left_out else "has no detector"
        warnings.warn(f"{options.model} {why}, so nothing is called unknown: score and is_known stay empty.", stacklevel=2)
    answers: dict[str, Any] = {"function_to_apply": options.function_to_apply}
    if options.top_k is not None:
        answers["top_k"] = options.top_k
    asked = {f"--{name}": getattr(options, name) for name in ("top_k", "function_to_apply")}
    asked |= {f"--{name}": None if of is None else list_hash(of)[:16] for name, of in (("class_names", names), ("templates", templates))}
    found = predict(
        classify,
        images,
        options.output,
        record={"the model": weights[:16], **given, **asked},
        batch_size=running.batch_size,
        num_workers=running.num_workers,
        progress=not running.disable_tqdm,
        overwrite=options.overwrite,
        **answers,
    )
    print("\n".join(summary(found, options.output)))
    if options.fail_if_broken and found.summary["broken"]:
        raise OSError(f"`--fail_if_broken`: {found.summary['broken']:,} images could not be read; {options.output} names them.")
    return 0


def chosen_images(options: PredictOptions) -> tuple[list[str] | DataRows, dict[str, Any]]:
    """
    The images that the `options` name, and by what a later command knows that they are the same.

    Raises:
        ValueError: If there are none, or several data sets.
        OSError: If something does not exist, or cannot be read.
    """
    words, data = options.images, [word for word in options.images if is_data_set(word)]
    if options.image_column is not None and not data:
        raise ValueError(f"`--image_column {options.image_column}` is for a data set, and image files have no columns; leave it out.")
    if options.image_list is not None:
        where = f"`--image_list {options.image_list}`"
        content = sys.stdin.buffer.read() if options.image_list == "-" else Path(options.image_list).expanduser().read_bytes()
        names = listed_images(content, where)
        return names, {"--image_list": hashlib.sha256(content).hexdigest()[:16], **_from_where(names)}
    if data:
        if len(words) > 1:
            raise ValueError(f"IMAGES: {data[0]} is a data set; give one data set alone, and each its own --output.")
        benchmark = streamed(words[0], options.image_column, "IMAGES")
        return DataRows(words[0], benchmark.row_stream()), {"IMAGES": words, "the data": identity(benchmark)}
    names, left_out = named_images(words)
    if left_out:
        warnings.warn(f"Not read: {left_out}.", stacklevel=2)
    # Which images lie in a folder may change until an interrupted command is given again, and its list stays.
    return names, {"IMAGES": words, **_from_where(words)}


def _from_where(names: Sequence[str]) -> dict[str, str]:
    """The working directory, on which it depends which images relative `names` mean."""
    return {} if all(map(os.path.isabs, names)) else {"the working directory": os.getcwd()}


def is_data_set(word: str) -> bool:
    """Whether a `word` of the command line is a data set, and neither an image, a folder of images nor a pattern."""
    path = Path(word).expanduser()
    if path.is_dir():
        return not image_files(path, first=True).images and (holds_tars(path) or folder_layout(path)[0] in ("saved", "saved_splits", "parquet"))
    if path.exists():
        return path.suffix.lower() == ".parquet"
    spec = Spec.parse(word)
    return spec.registered or is_hub_id(spec.source) and not Path(spec.source).suffix or spec.source != word


def streamed(word: str, image_column: str | None, option: str) -> Benchmark:
    """
    A data set, to be read as it comes.

    Args:
        word (`str`): What the user calls it.
        image_column (`str`, *optional*): Its column of images.
        option (`str`): By which it was given, for messages.

    Raises:
        ValueError: If it has several sets, or a role.
    """
    spec = Spec.parse(word)
    if spec.role is not None:
        raise ValueError(f"`{option} {word}`: images have no role; leave ':{spec.role}' out.")
    if spec.registered:
        sets = registered_sets(spec.source)
        if spec.part is None and len(sets) > 1:
            raise ValueError(f"`{option} {word}` has the sets {quoted(list(sets), 20)}; choose one, such as {spec.source}/{next(iter(sets))}.")
        copy = {} if spec.copy is None else {"path": spec.copy}
        return load_benchmark(spec.source, spec.part or next(iter(sets)), streaming=True, **copy)
    columns = own_columns(spec, {} if image_column is None else {"image_column": image_column})
    columns.pop("label_column", None)
    settings = {"name": spec.name, "role": "open_set", "label_column": None, "streaming": True, **columns}
    return load_benchmark(spec.source, own_split(spec, "test"), **settings)


def identity(benchmark: Benchmark) -> str:
    """By which rows of a `benchmark` are known to be the same: the commit on the Hub, or the sizes and times of files here."""
    if benchmark.commit is not None:
        return benchmark.commit
    place = {name: value for name, value in benchmark.place.items() if value is not None}
    root = Path(str(place.get("data_files") or place.get("path"))).expanduser()
    files = [root] if root.is_file() else []
    if root.is_dir():
        found = image_files(root)
        files = sorted(path for path in (*found.images, *(path for paths in found.others.values() for path in paths)) if path.is_file())
    states = [(os.path.relpath(path, root), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr((sorted(place.items()), states)).encode()).hexdigest()[:16]


def prompts(options: PredictOptions) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """The class names and the templates that the `options` name."""
    found = read_names_and_templates(options.class_names, named_templates(options.templates or "") or options.templates)
    return found.get("class_names"), found.get("templates")


def summary(found: Predicted, output: str) -> list[str]:
    """What was `found` and written to `output`, one line each, for the terminal."""
    of: Mapping[str, Any] = found.summary
    images, broken, labels = of["images"], of["broken"], sorted(of["labels"].items(), key=lambda item: (-item[1], item[0]))
    rate = f", {found.answered / found.seconds:,.0f} images per second" if found.answered else ""
    before = f" ({images - found.answered:,} of them before)" if found.answered < images else ""
    lines = [f"{images:,} images{before}{rate}"]
    width = max((len(name) for name, _ in labels[:_SHOWN]), default=0)
    lines += [f"  {name:<{width}}  {count:>9,}" for name, count in labels[:_SHOWN]]
    if len(labels) > _SHOWN:
        rest = sum(count for _, count in labels[_SHOWN:])
        lines.append(f"  {len(labels) - _SHOWN} other label{'s' if len(labels) > _SHOWN + 1 else ''}: {rest:,}")
    if of["unknown"] is not None:
        lines.append(f"Unknown: {of['unknown']:,} of {images - broken:,} ({100 * of['unknown'] / max(images - broken, 1):.1f} %)")
    if broken:
        lines.append(f"Could not be read: {broken:,}, which the column error explains: {quoted(of['named'], 5)}{', ...' if broken > len(of['named']) else ''}")
    return [*lines, f"Saved to {output}"]
