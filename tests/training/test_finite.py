# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""NaN and infinity stop a run by name, and nothing that was saved before is overwritten by them."""

import pytest
import torch
from accelerate import Accelerator
from helpers import arguments, random_batch, rows, stack

from hf_robustft import cli
from hf_robustft.objectives.base import ObjectiveMixin
from hf_robustft.objectives.contrastive import ContrastiveMixin
from hf_robustft.training.finite import MOST_SKIPPED
from hf_robustft.training.methods import CaRotTrainer
from hf_robustft.training.trainer import RobustTrainer


class Steep(ObjectiveMixin):
    """A term whose value is finite, and whose gradient is not."""

    steep_at = 1

    def loss_terms(self, features, batch):
        terms = super().loss_terms(features, batch)
        shift = 0.0 if self.optimizer_steps >= self.steep_at else 1.0
        weight = self.model.visual_projection.weight
        # The derivative of a root is infinite at 0.
        return {**terms, "steep": ((weight - weight.detach()).abs().sum() + shift).sqrt()}


class SteepTrainer(Steep, ContrastiveMixin, RobustTrainer):
    method = "steep"


class SteepCaRot(Steep, CaRotTrainer):
    pass


def trained(cls, model, folder, **settings):
    trainer = cls(model, arguments(folder, **settings), train_dataset=rows(random_batch(24)), data_collator=stack)
    trainer.train()
    return trainer


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_stops_before_its_step(tiny_clip, tmp_path, clip):
    with pytest.raises(FloatingPointError, match=r"gradient is not finite at step 1, .*\(contrastive, steep\).*not taken.*learning_rate") as caught:
        trained(SteepTrainer, tiny_clip, tmp_path, num_train_epochs=2, max_grad_norm=clip, save_strategy="steps", save_steps=1)
    assert "\n" not in str(caught.value)
    assert all(value.isfinite().all() for value in tiny_clip.parameters())
    assert [path.name for path in sorted(tmp_path.glob("*checkpoint-*"))] == ["checkpoint-1"]


@pytest.mark.parametrize("chunk", [0, 4])
def test_a_teacher_or_chunks_change_nothing(tiny_clip, tmp_path, chunk):
    with pytest.raises(FloatingPointError, match="gradient is not finite at step 1"):
        trained(SteepCaRot, tiny_clip, tmp_path, num_train_epochs=2, contrastive_chunk_size=chunk)


def test_a_teacher_that_is_not_finite_is_named_by_its_term(tiny_clip, tmp_path):
    class Poisoned(CaRotTrainer):
        def after_optimizer_step(self):
            super().after_optimizer_step()
            self.teacher.visual_projection.weight.fill_(float("nan"))
            self._teacher_captions.clear()

    with pytest.raises(FloatingPointError, match=r"loss is not finite at step 1: \w*distillation \(of "):
        trained(Poisoned, tiny_clip, tmp_path, num_train_epochs=2)


def test_weights_that_are_not_finite_are_saved_nowhere(tiny_clip, tmp_path):
    """A learning rate that makes the last step overflow: the loss before it was finite."""
    (tmp_path / "mine").write_text("mine")
    trainer = trained(SteepTrainer, tiny_clip, tmp_path, max_steps=1, save_strategy="no")
    trainer.save_model()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert "model.safetensors" in before
    with torch.no_grad():
        trainer.model.text_projection.weight[0, 0] = float("inf")
    with pytest.raises(FloatingPointError, match=rf"1 weights.*after step 1.*text_projection.*{tmp_path.name}"):
        trainer.save_model()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    with pytest.raises(FloatingPointError, match="text_projection"):
        trainer._save_checkpoint(trainer.model, None)
    assert not list(tmp_path.glob("*checkpoint*"))


def test_a_head_that_is_not_finite_is_not_saved(tiny_clip, tmp_path):
    class WithHead(SteepTrainer):
        steep_at = 99

        def trainable_modules(self):
            self.extra = getattr(self, "extra", None) or torch.nn.Linear(2, 2)
            return {**super().trainable_modules(), "extra": self.extra}

        def after_optimizer_step(self):
            super().after_optimizer_step()
            with torch.no_grad():
                self.extra.weight.fill_(float("nan"))

    with pytest.raises(FloatingPointError, match="1 weights are not finite after step 1, such as weight"):
        trained(WithHead, tiny_clip, tmp_path, max_steps=2, save_strategy="steps", save_steps=1)
    assert not list(tmp_path.glob("*checkpoint*"))


def test_a_run_that_skips_every_step_ends(tiny_clip, tmp_path, monkeypatch):
    """As the scaler of float16 does it where no scale is small enough."""
    monkeypatch.setattr(Accelerator, "optimizer_step_was_skipped", property(lambda self: True))
    with pytest.raises(FloatingPointError, match=f"{MOST_SKIPPED} steps in a row.*--bf16"):
        trained(SteepTrainer, tiny_clip, tmp_path, max_steps=MOST_SKIPPED + 5)


def test_a_diverging_command_ends_with_one_line_and_leaves_the_results_of_before(tmp_path, capsys):
    folder = tmp_path / "run"
    command = [
        *("train", "--recipe", "emoji_shift/flyp", "--output_dir", str(folder), "--use_cpu", "--skip_baseline"),
        *("--per_device_train_batch_size", "8", "--report_to", "none", "--disable_tqdm", "true"),
    ]
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"before")
    assert cli.main([*command, "--max_steps", "1", "--learning_rate", "1e38", "--warmup_steps", "0"]) == 2
    error = capsys.readouterr().err
    assert "not finite after step 1" in error and "--learning_rate" in error and "Traceback" not in error
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == b"before"
