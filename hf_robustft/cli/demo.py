# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Show a page on which a checkpoint answers the images that are dropped on it, or write it as a Hugging Face Space.

    hf-robustft demo outputs/croft
    hf-robustft demo outputs/croft --dataset my_images/validation
    hf-robustft demo outputs/croft --dataset my_images/validation --space outputs/space
    hf-robustft demo openai/clip-vit-base-patch16 --class_names names.txt

The page says label, probability, runners-up, known or unknown, prediction set, and which images of --dataset are nearest. It is open
to this machine alone unless --host or --share says otherwise, and needs pip install "hf_robustft[demo]". --space needs nothing more: it
writes a folder that a Space runs as it is, with a copy of the model, or its id if it is on the Hub.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from accelerate import PartialState

from ..data.messages import quoted
from ..data.packaged import CHECKPOINTS
from ..deployment.demo import TOP_K, Demo
from ..deployment.demo_page import demo_page, serve, wait
from ..deployment.nearest_images import IMAGES, MOST_IMAGES, NearestImages
from ..deployment.pipeline import pipeline
from ..deployment.space_files import write_space
from ..modeling.checkpoint import commit_of, own_files
from ..modeling.checkpoint_file import is_packaged, local_folder
from ..modeling.metadata import METADATA_FILE, load_robustft_json
from ..modeling.model_files import reading
from ..modeling.output_folders import check_apart, check_output_dir
from ..publishing.folder import check_secrets
from .calibrate import validation_set
from .commands import CommandParser, RunOptions, check_revision, option, quiet_if_asked
from .data_sets import DataOptions, ask_commits, check_columns, model_classes
from .option_rules import check_demo_options
from .specs import Spec


@dataclass(kw_only=True)
class DemoOptions:
    """What is shown, and where."""

    model: str = option(
        f"Folder or Hub id of a dual encoder, or one of the package: {quoted(tuple(CHECKPOINTS))}.", positional=True, metavar="MODEL"
    )
    dataset: str | None = option("Validation images, of which the nearest are shown, named as for calibrate.", None, metavar="SET")
    nearest_images: int | None = option(f"How many of them to keep, at most, evenly spread; {IMAGES:,} by default.", None)
    top_k: int = option("Classes that are shown.", TOP_K)
    space: str | None = option(
        "Write a Hugging Face Space into this folder, instead of showing the page. One that was written there before is replaced.",
        None,
        metavar="FOLDER",
    )
    host: str | None = option("Address to listen on; by default 127.0.0.1, this machine alone. 0.0.0.0: all of its addresses.", None)
    port: int | None = option("By default the first free one from 7860 on.", None)
    share: bool = option("Let gradio make an address that is open to everybody, for a week.", False)
    revision: str | None = option("Commit, branch or tag of MODEL on the Hub.", None)


def parser() -> CommandParser:
    """The parser of `hf-robustft demo`."""
    return CommandParser((DemoOptions, DataOptions, RunOptions), prog="hf-robustft demo", description=__doc__)


def run(arguments: Sequence[str]) -> int:
    """
    Carry out what `arguments` say, until Ctrl-C if a page is shown; returns the exit code.

    Raises:
        ValueError: If options or data do not fit the model or each other, or the folder of the Space holds other things.
        OSError: If model or data cannot be read, the folder cannot be written, or the address is taken.
    """
    options, data, running = parser().parse(arguments)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("`hf-robustft demo` works in one process; call it without a launcher.")
    check_demo_options({name: value for name, value in vars(options).items() if value is not None and value is not False})
    most = options.nearest_images or IMAGES
    if most > MOST_IMAGES:
        raise ValueError(f"`--nearest_images {most}` must be at most {MOST_IMAGES:,}.")
    check_revision(options.model, options.revision)
    if options.space is not None:
        dataset = None if options.dataset is None else Spec.parse(options.dataset).folder
        model = None if is_packaged(options.model) else options.model
        check_apart(options.space, {"MODEL": model, f"--dataset {options.dataset}": dataset}, "--space")
        check_output_dir(options.space, "--space")
    quiet_if_asked(running)
    policy = data.policy()
    here = None if is_packaged(options.model) else local_folder(options.model)
    with reading(here) if here is not None else nullcontext():
        folder = own_files(options.model, options.revision)
        facts = load_robustft_json(folder) if folder is not None and (folder / METADATA_FILE).is_file() else {}
        known = model_classes(data, facts.get("class_names", ()), facts.get("templates", ()), facts.get("label_names"))
        if known is None:
            raise ValueError(f"`MODEL {options.model}` names no classes, of which the page shows the likeliest; give them by --class_names.")
        ask_commits([options.dataset])
        check_columns([options.dataset], data, measured=[])
        # The data before any weights.
        benchmark = None if options.dataset is None else validation_set(options.dataset, data, known)
        names = known.class_names if data.class_names or not facts.get("class_names") else None
        prompts = {"class_names": names, "templates": None if names is None and data.templates is None else known.templates}
        device = PartialState(cpu=running.use_cpu).device
        classify = pipeline(options.model, revision=options.revision, require_detector=False, device=device, **prompts)
    if classify.detector is None and classify.thresholds is None:
        print("Note: there is no open-set detector for these classes, so nothing will be called unknown.")
    reads = {"batch_size": running.batch_size, "num_workers": running.num_workers, "bad_images": policy, "progress": not running.disable_tqdm}
    nearest = None if benchmark is None else NearestImages.read(benchmark, classify, most, **reads)
    on_the_hub = here is None and not is_packaged(options.model)
    # Where a folder lies on this machine is private.
    name = options.model if on_the_hub or is_packaged(options.model) else Path(here).resolve().name
    if options.space is None:
        page = serve(demo_page(Demo(classify, name, nearest, options.top_k)), options.host or "127.0.0.1", options.port, options.share)
        print(f"The page is at {page.local_url}{f' and {page.share_url}' if options.share else ''}; Ctrl-C ends it.", flush=True)
        try:
            wait(page)
        except KeyboardInterrupt as end:
            # Ctrl-C is how it ends; SIGTERM has a status of its own.
            if hasattr(end, "signal"):
                raise
        return 0
    where = {"hub_id": options.model, "revision": commit_of(classify.model)} if on_the_hub else {}
    files = write_space(options.space, classify, name, top_k=options.top_k, nearest=nearest, **where, **prompts, check=partial(check_secrets, name))
    if nearest is not None:
        print(f"Note: small pictures of {len(nearest.names):,} images of {nearest.source} are a part of the Space; who sees it sees them.")
    print(f"Saved to {options.space}: {len(files)} files. Upload them: hf upload NAME {options.space} . --repo-type space")
    return 0
