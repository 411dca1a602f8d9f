# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A weight of 0 takes exactly its term out of a method: what is left is the method without it, to the last bit."""

import copy
import importlib

import pytest
import torch
import torch.nn.functional as F
from helpers import CLASSES, TEMPLATES, arguments, random_batch, rows, stack, step_logs, tiny_processor
from transformers import TrainerCallback

from hf_robustft import FeatureAdapters
from hf_robustft.cli.train_arguments import parse
from hf_robustft.evaluation.open_set import SHIFT_METRICS
from hf_robustft.modeling.adapters import near_unit
from hf_robustft.modeling.dual_encoder import DualEncoder
from hf_robustft.modeling.zero_shot import prompt_features
from hf_robustft.objectives import croft, energy_gradient, self_distillation, singular_value
from hf_robustft.objectives.energy_gradient import class_logits
from hf_robustft.objectives.papers import METHOD_FACTS
from hf_robustft.training.methods import METHODS

CAROT = {"contrastive", "orthogonality", "cross_frobenius", "self_distillation"}
CROFT = {"classification", "shift_classification", "shift_alignment", "energy_gradient"}
#: The terms of each method, and those that a setting takes out of it.
TERMS = {"carot": CAROT, "croft": CROFT, "carot+croft": CAROT | CROFT}
REMOVED = {
    "orthogonality_weight": {"orthogonality"},
    "cross_frobenius_weight": {"cross_frobenius"},
    "distillation_weight": {"self_distillation"},
    "energy_gradient_weight": {"energy_gradient"},
    "shift_alignment_weight": {"shift_alignment"},
    "feature_shifts": {"shift_alignment", "shift_classification"},
    "croft_weight": CROFT,
}
#: Other features are shifted then, and others pooled in the energy gradient; the rest stays as it is.
OTHER_SHIFTS = {"shift_alignment_weight": CROFT, "feature_shifts": {"energy_gradient"}}
#: What must not be computed without its term.
COMPUTED = {
    "orthogonality_weight": [(singular_value, "orthogonality_penalty")],
    "cross_frobenius_weight": [(singular_value, "cross_frobenius_penalty")],
    "distillation_weight": [(self_distillation, "self_distillation_loss")],
    "energy_gradient_weight": [(croft, "energy_gradient_penalty")],
    "shift_alignment_weight": [(croft, "same_class_alignment"), (energy_gradient, "same_class_alignment")],
    "feature_shifts": [(energy_gradient, "shifted_features"), (croft, "mixed_back")],
    "croft_weight": [(croft, "class_logits"), (energy_gradient, "shifted_features")],
}
CASES = [
    (method, name)
    for method, terms in TERMS.items()
    for name, removed in REMOVED.items()
    if removed <= terms and removed != terms
]


class Away(TrainerCallback):
    """Puts the teacher away from the student before the first step, where it would be the student."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.optimizer_steps = 1
        teacher = getattr(self.trainer, "teacher", None)
        for number, parameter in enumerate(() if teacher is None else teacher.parameters()):
            noise = torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(number), dtype=parameter.dtype
            )
            parameter.data += 0.05 * noise


def trained(method, model, folder, away=False, **settings):
    names = {"class_names": CLASSES, "templates": TEMPLATES, "processing_class": tiny_processor()}
    if not METHODS[method].needs_labels:
        names = {}
    defaults = {"num_train_epochs": 1, "warmup_steps": 0, "log_gradient_shares": 0}
    trainer = METHODS[method](
        copy.deepcopy(model),
        arguments(folder, **{**defaults, **settings}),
        train_dataset=rows(random_batch(16, dtype=next(model.parameters()).dtype)),
        data_collator=stack,
        **names,
    )
    if away:
        callback = Away()
        callback.trainer = trainer
        trainer.add_callback(callback)
    trainer.train()
    return trainer


def first_terms(trainer):
    return {k.removeprefix("loss/"): v for k, v in step_logs(trainer)[0].items() if k.startswith("loss/")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    kept = {}

    def terms(method, model):
        if method not in kept:
            kept[method] = first_terms(trained(method, model, tmp_path_factory.mktemp("whole"), away=True))
        return kept[method]

    return terms


@pytest.mark.same_bits("the terms of the same first batch, of which one is left out")
@pytest.mark.parametrize(("method", "name"), CASES)
def test_a_weight_of_zero_takes_its_term_alone_and_computes_nothing(
    tiny_clip, tmp_path, monkeypatch, whole, method, name
):
    want = whole(method, tiny_clip)
    assert want.keys() == TERMS[method]
    for module, function in COMPUTED[name]:
        monkeypatch.setattr(module, function, lambda *args, **kwargs: pytest.fail("computed"))
    off = False if name == "feature_shifts" else 0
    trainer = trained(method, tiny_clip, tmp_path, away=True, **{name: off})
    assert name != "distillation_weight" or trainer.teacher is None
    got = first_terms(trainer)
    assert got.keys() == TERMS[method] - REMOVED[name]
    same = got.keys() - OTHER_SHIFTS.get(name, set()) | (got.keys() & {"classification"})
    # Without CRoFT its class prompts are not encoded with the captions: a product of another size, which may round otherwise.
    limit = 1e-6 if name == "croft_weight" else 0
    assert {term: got[term] for term in same} == pytest.approx({term: want[term] for term in same}, rel=limit, abs=0)


def state(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def equal(one, two):
    return all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.same_bits("the same loss by two methods")
def test_carot_without_its_terms_is_flyp(tiny_clip, tmp_path):
    flyp = trained("flyp", tiny_clip, tmp_path)
    constraint, distillation = {"orthogonality_weight": 0, "cross_frobenius_weight": 0}, {"distillation_weight": 0}
    neither = trained("carot", tiny_clip, tmp_path, **constraint, **distillation)
    assert equal(state(neither), state(flyp)) and neither.teacher is None
    assert [{k: v for k, v in e.items() if "time" not in k} for e in step_logs(neither)] == step_logs(flyp)
    ends = [state(trained("carot", tiny_clip, tmp_path, **off)) for off in ({}, constraint, distillation)]
    for index, end in enumerate(ends):
        assert not equal(end, state(flyp)) and not any(equal(end, other) for other in ends[:index])


def test_croft_without_its_terms_trains_plain_adapters(tiny_clip, tmp_path):
    model = tiny_clip.double()
    settings = {"optim": "sgd", "optim_args": "momentum=0.9", "weight_decay": 0.1, "learning_rate": 0.05}
    settings |= {"lr_scheduler_type": "constant", "max_grad_norm": 0.0, "train_sampling_strategy": "sequential"}
    off = {"energy_gradient_weight": 0, "feature_shifts": False}
    trainer = trained("croft", model, tmp_path, num_train_epochs=3, **settings, **off)
    assert first_terms(trainer).keys() == {"classification"}

    batch, adapters = random_batch(16, dtype=torch.float64), FeatureAdapters(16).double()
    with torch.no_grad():
        images = DualEncoder.of(model.eval()).image_features(batch["pixel_values"])
        prompts, scale = prompt_features(model, tiny_processor(), CLASSES, TEMPLATES), model.logit_scale.exp()
    optimizer = torch.optim.SGD(adapters.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        for part, labels in zip(images.split(8), batch["labels"].split(8), strict=True):
            logits = class_logits(
                near_unit(adapters.adapt_images(part)), adapters.adapt_class_features(prompts), scale
            )
            optimizer.zero_grad()
            F.cross_entropy(logits, labels).backward()
            optimizer.step()
    for name, value in adapters.state_dict().items():
        torch.testing.assert_close(trainer.adapters.state_dict()[name], value, rtol=0, atol=1e-12)
        assert not torch.equal(value, torch.eye(16))
    assert torch.equal(trainer.generator.weight, torch.eye(16).double())


def test_the_script_leaves_out_what_it_says(repository, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "examples"))
    script = importlib.import_module("ablations")
    for method, ablations in script.ABLATIONS.items():
        left = {}
        for name, flags in ablations.items():
            command = ["--method", method, "--recipe", f"emoji_shift/{method}", "--output_dir", str(tmp_path), *flags]
            _, _, args = parse(command)
            METHODS[method].check_settings(args)
            off = [
                terms for setting, terms in REMOVED.items() if terms <= TERMS[method] and not getattr(args, setting)
            ]
            left[name] = frozenset(TERMS[method].difference(*off))
        # Two of CaRot's rows say something of its teacher, and leave no term out.
        assert len(set(left.values())) == len(left) - 2 * (method == "carot")
        assert left[METHOD_FACTS[method].label] == TERMS[method]
        assert min(left.values(), key=len) in ({"contrastive"}, {"classification"})


def test_the_scripts_table(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "examples"))
    script = importlib.import_module("ablations")

    def report(accuracy):
        numbers = {"accuracy": accuracy, "ece": 0.05, "nll": 2.0, "ece_noise_floor": 0.01}
        row = {"auroc": accuracy, "shifts": {"twemoji": dict.fromkeys(SHIFT_METRICS, 0.625)}}
        return {
            "results": {"noto": {"role": "id", **numbers}, "twemoji": {"role": "shift", **numbers, "accuracy": 0.5}},
            "open_set": {"open_set": {"scores": {"energy": row}}},
            "spectrum": {"smallest_singular_value": 1.0},
        }

    lines = script.ablation_table({"CaRot": [report(0.25), report(0.75)], "less": [report(0.5), report(0.5)]})
    cells = [cell.strip() for cell in lines[2].split("|")]
    assert cells[1:4] == ["CaRot", "50.0 ± 35.4", "5.0 ± 0.0"] and cells[6:9] == [
        "2.00 ± 0.00",
        "50.0 ± 35.4",
        "62.5 ± 0.0",
    ]
    assert lines[3].startswith("| less | 50.0 ± 0.0 |")
