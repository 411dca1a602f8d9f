# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Reads streams in all processes that torchrun started, and writes `<output>/<job>-<rank>.json`.

A job is a dict of JSON values: `name`, `kind` and `folder` of files that are there, and either `train` (settings of a run
and the steps after which it saves, resumed from `resume`) or the number of `workers` of an evaluation, with `declared`
rows if the data set shall claim another number.
"""

import dataclasses
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from accelerate import PartialState
from helpers import tiny_config, tiny_processor
from helpers.streams import benchmark, recorded
from transformers import CLIPModel

from hf_robustft.data.transforms import ImageTransform
from hf_robustft.evaluation.collect import collect_logits, image_batches
from hf_robustft.modeling.processes import failing_together
from hf_robustft.training.distributed import end_gloo


def train(job: dict, model: CLIPModel, output: Path) -> dict:
    chosen = benchmark(job["kind"], Path(job["folder"]), ())
    resume = None if job.get("resume") is None else Path(job["resume"])
    return {"seen": recorded(model, chosen, output / job["name"], resume=resume, use_cpu=True, **job["train"])}


def evaluate(job: dict, model: CLIPModel) -> dict:
    chosen = benchmark(job["kind"], Path(job["folder"]), (), role="id", name=job["name"])
    if "declared" in job:
        rows = dataclasses.replace(chosen.row_stream(), declared=job["declared"], declared_by="the data set itself")
        chosen = dataclasses.replace(chosen, opened=rows)
    transform = ImageTransform.from_processor(tiny_processor(), train=False)
    settings = {"batch_size": 2, "num_workers": job["workers"], "progress": False}
    try:
        found, own = collect_logits(model, chosen, tiny_processor(), **settings), []
        if job.get("own"):
            with torch.no_grad(), failing_together(f"Evaluation on {chosen.name!r}", PartialState()):
                for index, _, _ in image_batches(model, chosen, transform, **settings):
                    own += index.tolist()
    except (OSError, RuntimeError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"logits": found[0].tolist(), "labels": found[1].tolist(), "own": own}


def main(output: Path, jobs: list[dict]) -> None:
    torch.set_num_threads(1)
    state = PartialState(cpu=True)
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = CLIPModel(tiny_config()).eval()
    for job in jobs:
        result = train(job, model, output) if "train" in job else evaluate(job, model)
        (output / f"{job['name']}-{state.process_index}.json").write_text(json.dumps(result))
        state.wait_for_everyone()
    end_gloo()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
