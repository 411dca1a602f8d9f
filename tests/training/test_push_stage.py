# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The folder of what is pushed may go with an earlier push, and not under one that is being made."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers.trainer_utils import HubStrategy

from hf_robustft.training.hub_push import STAGE, HubPusher


class Saved(Exception):
    pass


def test_an_earlier_push_that_ends_does_not_take_the_folder_of_the_next(tmp_path):
    def save_model(folder, _internal_call):
        # In a thread this comes at any moment.
        pusher._remove(earlier)
        (Path(folder) / "model.safetensors").write_bytes(b"")
        raise Saved

    args = SimpleNamespace(output_dir=str(tmp_path), hub_strategy=HubStrategy.EVERY_SAVE, hub_always_push=True, device=torch.device("cpu"))
    trainer = SimpleNamespace(
        is_world_process_zero=lambda: True,
        state=SimpleNamespace(global_step=2),
        accelerator=SimpleNamespace(reduce=lambda value, how: value),
        save_model=save_model,
    )
    pusher, earlier = HubPusher(trainer, args), tmp_path / STAGE / "step-1"
    earlier.mkdir(parents=True)
    with pytest.raises(Saved):
        pusher.push_checkpoint(str(tmp_path / "checkpoint-2"))
    assert not earlier.exists() and (tmp_path / STAGE / "step-2" / "model.safetensors").is_file()
    pusher._remove(tmp_path / STAGE / "step-2")
    assert not (tmp_path / STAGE).exists()
