# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""CRoFTTrainer repeats runs of the authors' code on fixed features: every loss, and all final weights."""

import pytest
import torch
from helpers import arguments, assert_golden, stack, step_logs, tiny_config, tolerance
from transformers import CLIPModel, TrainerCallback

from hf_robustft import CRoFTTrainer
from hf_robustft.training.given import Suggested

pytestmark = pytest.mark.numbers

TYPES = {"f64": torch.float64, "f32": torch.float32}
CASES = ("setup1_g1", "setup1_g3_defaultlr", "setup2_pacs_g1", "setup2_pacs_g0", "setup2_vlcs_g2", "setup1_wccf_off")
BATCHES, STEPS = 3, 12


class StopAfter(TrainerCallback):
    """The file ends after four epochs of runs whose schedules are longer."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= STEPS


class Recording(CRoFTTrainer):
    """Keeps the generator's loss of the last inner step, and the rate, of each batch."""

    def loss_terms(self, features, batch):
        terms = super().loss_terms(features, batch)
        self.__dict__.setdefault("inner", []).append(
            None if self.generator_loss is None else self.generator_loss.item()
        )
        self.__dict__.setdefault("rates", []).append(self.optimizer.param_groups[-1]["lr"])
        return terms


@pytest.fixture(scope="module")
def run(golden_dir, golden, tmp_path_factory):
    """`run(case, tag, **settings)` trains a case of item f through the Trainer."""
    data, cases = golden("f_croft_traj"), golden.manifest("f_croft_traj")["cases"]
    kept = {}

    def train(case: str, tag: str, **changed):
        key = (case, tag, *sorted(changed.items()))
        if key in kept:
            return kept[key]
        hyper, dtype = cases[case], TYPES[tag]
        config = tiny_config(logit_scale_init_value=0.0)
        config.projection_dim = data["text_features"].shape[1]
        model = CLIPModel(config).to(dtype)
        with torch.no_grad():
            model.logit_scale.copy_(data["log_scale"])
        features, labels = data["image_features"].to(dtype).flatten(0, 1), data["labels"].flatten()
        dataset = [{"image_features": x, "labels": y} for x, y in zip(features, labels, strict=True)]
        vlcs = hyper["dataset"] == "VLCS"
        settings = {
            **CRoFTTrainer.paper_settings,
            "per_device_train_batch_size": data["labels"].shape[1],
            "learning_rate": hyper["lr"],
            "generator_learning_rate": hyper["lr"],
            "num_train_epochs": hyper["max_epoch"],
            "weight_decay": hyper["weight_decay"],
            "generator_weight_decay": hyper["weight_decay"],
            "train_sampling_strategy": "sequential",
            "adapter_image_ratio": hyper["ratio"],
            "adapter_text_ratio": hyper["ratio_text"],
            "text_adapter_order": "after_ensemble",
            "shift_alignment_weight": hyper["lambda1"],
            "energy_gradient_weight": hyper["lambda2"],
            "energy_gradient_reduction": "sum" if "46" in hyper["dataset"] else "mean",
            "energy_gradient_shifted": not vlcs,
            "generator_steps": hyper["gen_step"],
            "feature_shifts": hyper["WCCF"],
            **changed,
        }
        trainer = Recording(
            model,
            # What the authors' code was called with, also where it has no use for it.
            arguments(
                tmp_path_factory.mktemp("croft"),
                **{name: Suggested(value, "the recording") for name, value in settings.items()},
            ),
            train_dataset=dataset,
            data_collator=stack,
            class_features=data["text_features"].to(dtype)[:, None],
            callbacks=[StopAfter()],
        )
        trainer.train()
        kept[key] = trainer
        return trainer

    return train


def test_the_file_holds_the_order_that_we_train_in(golden):
    assert golden("f_croft_traj")["batch_index"].tolist() == [step % BATCHES for step in range(STEPS)]


def limits(golden, tag: str, part: int) -> tuple[float, float]:
    return tolerance(golden.manifest("f_croft_traj")["tolerance"][tag].split(";")[part])


@pytest.mark.parametrize("tag", ["f64", "f32"])
@pytest.mark.parametrize("case", CASES)
def test_losses_and_rates(run, golden, case, tag):
    trainer, data, hyper = run(case, tag), golden("f_croft_traj"), golden.manifest("f_croft_traj")["cases"][case]
    logs = step_logs(trainer)
    assert len(logs) == STEPS

    def logged(*names):
        return torch.tensor([sum(log.get(name, 0.0) for name in names) for log in logs], dtype=torch.float64)

    got = {
        "loss": logged("loss"),
        "ce": logged("loss/classification"),
        "loss2": logged("loss/energy_gradient") / hyper["lambda2"],
        "lr": torch.tensor(trainer.rates, dtype=torch.float64),
    }
    if hyper["WCCF"]:
        got["loss1"] = logged("loss/shift_classification", "loss/shift_alignment")
    for name, value in got.items():
        assert_golden(value, data[f"{case}/{name}_{tag}"], limits(golden, tag, 0), f"{case}/{name}_{tag}")
    if hyper["WCCF"] and hyper["gen_step"]:
        want = data[f"{case}/gen_loss_{tag}"][:, hyper["gen_step"] - 1]
        assert_golden(
            torch.tensor(trainer.inner, dtype=torch.float64), want, limits(golden, tag, 0), f"{case}/gen_loss_{tag}"
        )


@pytest.mark.parametrize("tag", ["f64", "f32"])
@pytest.mark.parametrize("case", CASES)
def test_final_weights(run, golden, case, tag):
    trainer, data = run(case, tag), golden("f_croft_traj")
    got = {
        "fc_i": trainer.adapters.image_adapter,
        "fc_t": trainer.adapters.text_adapter,
        "gen": trainer.generator.weight,
    }
    for name, value in got.items():
        want = data[f"{case}/final_{name}_{tag}"]
        assert_golden(value, want, limits(golden, tag, 1), f"{case}/final_{name}_{tag}")


@pytest.mark.parametrize(
    "changed",
    [
        {"generator_order": "clean"},
        {"generator_steps": 2},
        {"energy_gradient_reduction": "mean"},
        {"weight_decay": 0.0},
    ],
    ids=str,
)
def test_each_choice_of_the_authors_matters(run, golden, changed):
    weights = run("setup1_g1", "f64", **changed).adapters.image_adapter
    want = golden("f_croft_traj")["setup1_g1/final_fc_i_f64"]
    assert (weights - want).abs().max() > 1e-5
