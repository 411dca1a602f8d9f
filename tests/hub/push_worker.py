# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Short runs that push: `python -m hub.push_worker '[{"output_dir": ..., "save_steps": ..., ...}, ...]'`."""

import json
import sys
from pathlib import Path

import torch
from helpers import TEMPLATES, arguments, image_dataset, tiny_config, tiny_processor
from transformers import CLIPModel

from hf_robustft import Benchmark
from hf_robustft.training.hub_push import push_finished
from hf_robustft.training.methods import METHODS

SETTINGS = {"push_to_hub": True, "max_steps": 2, "save_strategy": "steps", "save_steps": 1, "hub_always_push": True}


def train(settings: dict) -> None:
    """One run. Beside settings of the Trainer: `method`, `end` ("push_to_hub", "finished", "nothing"), `card`, `resume`."""
    method, end, card, resume = (settings.pop(key, None) for key in ("method", "end", "card", "resume"))
    if card is not None:
        Path(settings["output_dir"]).mkdir(parents=True)
        (Path(settings["output_dir"]) / "README.md").write_text(card, newline="\n")
    Trainer = METHODS[method or "carot"]
    train = Benchmark.from_dataset(image_dataset(16), name="train", role="train", templates=TEMPLATES)
    test = Benchmark.from_dataset(image_dataset(12, seed=1), name="test", role="id", templates=TEMPLATES)
    torch.manual_seed(0)
    trainer = Trainer(
        CLIPModel(tiny_config()),
        arguments(**{**SETTINGS, **settings}),
        train_dataset=train,
        eval_dataset=test,
        processing_class=tiny_processor(),
    )
    trainer.train(resume_from_checkpoint=resume)
    if end == "finished":
        trainer.save_model(_internal_call=True)
        print("commit", push_finished(trainer.args, trainer).commit)
    elif end != "nothing":
        done = trainer.push_to_hub()
        # Only the first process has pushed.
        print("commit", done and done.commit)


def main(runs: list[dict]) -> int:
    """All runs; one that fails does not end the others."""
    failed = 0
    for settings in runs:
        name = settings["hub_model_id"]
        try:
            train(settings)
        except (OSError, ValueError) as error:
            failed += 1
            print(f"{name}: {type(error).__name__}: {error}")
    return failed


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
