# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""CaRotTrainer repeats a run of the authors' code: every loss, a gradient, and all final weights."""

import pytest
import torch
from helpers import arguments, assert_golden, golden_model, step_logs, tolerance
from transformers import TrainerCallback

from hf_robustft import CaRotTrainer
from hf_robustft.training.arguments import REFERENCE_PRESET

pytestmark = pytest.mark.numbers

#: Logged term, its name in the golden file, and the weight that the file leaves out.
TERMS = [
    ("loss", "total", 1.0),
    ("loss/contrastive", "contrastive", 1.0),
    ("loss/cross_frobenius", "cross", 0.05),
    ("loss/orthogonality", "orth", 0.2),
    ("loss/self_distillation", "dist", 1.5),
]
TYPES = {"f64": torch.float64, "f32": torch.float32}


class Gradients(TrainerCallback):
    """Keeps the gradients of step 1, the first with distillation."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step == 1:
            self.kept = {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.fixture(scope="module")
def reference_run(golden_dir, golden, tmp_path_factory):
    """`reference_run(tag, **settings)` trains item e's model on its batches, in the file's order."""
    data, facts = golden("e_carot_traj"), golden.manifest("e_carot_traj")["hyper"]
    kept = {}

    def run(tag: str, **settings):
        key = (tag, *sorted(settings.items()))
        if key not in kept:
            kept[key] = train(tag, settings)
        return kept[key]

    def train(tag: str, settings: dict):
        batches = range(int(data["batch_index"].max()) + 1)
        images = data["images"].to(TYPES[tag])
        dataset = [{"pixel_values": images[b, i], "input_ids": data["texts"][b, i]} for b in batches for i in range(8)]
        args = arguments(
            tmp_path_factory.mktemp("reference"),
            **{
                "preset": "reference",
                # The authors' code shuffles; the recording fixed the order of its batches.
                "train_sampling_strategy": "sequential",
                "max_steps": facts["total_steps"],
                "learning_rate": facts["lr"],
                "weight_decay": facts["wd"],
                "warmup_steps": facts["warmup_length"],
                "min_lr": facts["min_lr"],
                "cross_frobenius_weight": facts["cross_fnorm"],
                "orthogonality_weight": facts["l_orth_wv"],
                "distillation_weight": facts["distil_coef"],
                "ema_update_every": facts["ema_up_freq"],
                "ema_warmup_ratio": facts["m_warm_up"],
                "ema_start_momentum": facts["m_sche_src"],
                "ema_end_momentum": facts["m_sche_tar"],
                **settings,
            },
        )
        gradients = Gradients()
        trainer = CaRotTrainer(
            golden_model(golden_dir, golden, TYPES[tag]),
            args,
            train_dataset=dataset,
            data_collator=lambda examples: {k: torch.stack([e[k] for e in examples]) for k in examples[0]},
            callbacks=[gradients],
        )
        trainer.train()
        trainer.gradients = gradients.kept
        return trainer

    return run


def test_the_file_holds_the_order_that_we_train_in(golden):
    order = golden("e_carot_traj")["batch_index"].tolist()
    assert order == [step % 5 for step in range(12)]


@pytest.mark.parametrize("tag", ["f64", "f32"])
@pytest.mark.parametrize(("logged", "stored", "weight"), TERMS, ids=[stored for _, stored, _ in TERMS])
def test_losses(reference_run, golden, tag, logged, stored, weight):
    limits = tolerance(golden.manifest("e_carot_traj")["tolerance"][tag].split(";")[0])
    logs = step_logs(reference_run(tag))
    assert len(logs) == 12 and ("loss/self_distillation" in logs[0]) is False
    got = torch.tensor([log.get(logged, 0.0) / weight for log in logs], dtype=torch.float64)
    assert_golden(got, golden("e_carot_traj")[f"{stored}_{tag}"], limits, f"{stored} {tag}")


@pytest.mark.parametrize("who", ["student", "teacher"])
@pytest.mark.parametrize("tag", ["f64", "f32"])
def test_final_weights(reference_run, golden, tag, who):
    trainer = reference_run(tag)
    limits = tolerance(golden.manifest(f"e_final_{who}_{tag}")["tolerance"][tag])
    state = (trainer.model if who == "student" else trainer.teacher).state_dict()
    want = golden(f"e_final_{who}_{tag}")
    assert len(want) > 70 and {name for name, _ in trainer.model.named_parameters()} == set(want)
    for name, value in want.items():
        # The true gradient of a key bias is 0; AdamW turns float32's rounding noise there into whole steps.
        noise = tag == "f32" and name.endswith("k_proj.bias")
        rates = golden("e_carot_traj")["lr"].sum().item()
        assert_golden(state[name], value, (0.0, 2 * rates) if noise else (0.0, limits[1]), name)


def test_gradients_of_the_first_step_with_distillation(reference_run, golden):
    data, prefix = golden("e_carot_traj"), "grads_step1/"
    want = {name.removeprefix(prefix): value for name, value in data.items() if name.startswith(prefix)}
    got = reference_run("f64").gradients
    assert set(got) == set(want)
    for name, value in want.items():
        # Key biases have gradient 0 up to rounding, so that a relative error means nothing there.
        limits = (0.0, 1e-12) if name.endswith("k_proj.bias") else (1e-8, 1e-14)
        assert_golden(got[name], value, limits, name)


def test_rates_momenta_and_scales(reference_run, golden):
    data, logs = golden("e_carot_traj"), step_logs(reference_run("f64"))
    momenta = data["momentum"]
    moves = [step for step in range(12) if momenta[step] >= 0]
    updates = [0, *(log["teacher/updates"] for log in logs)]
    assert [step for step in range(12) if updates[step + 1] > updates[step]] == moves
    for step in moves:
        assert logs[step]["teacher/momentum"] == pytest.approx(momenta[step].item(), abs=1e-12)
    scales = torch.tensor([log["logit_scale"] for log in logs], dtype=torch.float64)
    assert_golden(scales, data["norms_f64"][:, 2].exp(), (1e-8, 0.0), "logit scale after each step")
    assert [log["learning_rate"] for log in logs] == pytest.approx(data["lr"].tolist(), rel=1e-10)


OFF = {
    "lr_schedule": "transformers",
    "max_grad_norm": 1.0,
    "decay_all_parameters": False,
    "train_sampling_strategy": "random",
    "ema_from_first_step": False,
}


@pytest.mark.same_bits("the same run, described twice")
def test_the_preset_is_the_sum_of_its_switches(reference_run):
    preset, spelt = reference_run("f64"), reference_run("f64", **{**REFERENCE_PRESET, "preset": "none"})
    for name, value in preset.model.state_dict().items():
        assert torch.equal(value, spelt.model.state_dict()[name]), name


@pytest.mark.parametrize("switch", sorted(OFF))
def test_each_reference_switch_matters(reference_run, golden, switch):
    trainer = reference_run("f64", **{**REFERENCE_PRESET, "preset": "none", switch: OFF[switch]})
    state, want = trainer.model.state_dict(), golden("e_final_student_f64")
    error = max((state[name] - value).abs().max().item() for name, value in want.items())
    assert error > 1e-5, f"without {switch} the run misses by {error:.2g} only"


def test_every_switch_of_the_preset_is_tried():
    # The bound on the scale needs a model at the bound: `test_trainer.test_scale_is_bounded`.
    # The order of the data is the recording's, and in no preset.
    assert set(OFF) | {"bound_logit_scale"} == set(REFERENCE_PRESET) | {"train_sampling_strategy"}
