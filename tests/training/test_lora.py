# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""LoRA: a step is one by hand, what is saved is a plain model with the same answers, and whoever acts on weights acts on W + s B A."""

import copy
import json
import re

import pytest
import torch
from helpers import (
    CLASSES,
    arguments,
    image_dataset,
    random_batch,
    rows,
    stack,
    tiny_config,
    tiny_processor,
)
from helpers.families import FAMILY_NAMES, family_images, family_model
from helpers.runs import Kill, Killed, assert_same_run
from helpers.runs import trainer_of as resumable
from torch import nn
from transformers import CLIPModel, TrainerCallback

from hf_robustft import (
    Benchmark,
    CaRotTrainer,
    FLYPTrainer,
    finish_checkpoint,
    interpolate_weights,
    load_adapters,
    load_dual_encoder,
)
from hf_robustft.modeling import lora
from hf_robustft.modeling.dual_encoder import DualEncoder
from hf_robustft.modeling.lora import ADAPTER_FOLDER, LowRankAdapters, adapted_maps
from hf_robustft.modeling.noise import draws_noise
from hf_robustft.objectives.starting_weights import starting_weights_penalty
from hf_robustft.training.methods import METHODS

pytest.importorskip("peft")

QUIET = {"optim": "sgd", "warmup_steps": 0, "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "log_gradient_shares": 0.0}
RANK, ALPHA = 3, 6.0


def trainer_of(method, model, folder, callbacks=(), **settings):
    cls, names = METHODS[method], {}
    if cls.needs_labels:
        names = {"class_names": CLASSES, "templates": ("a {}.",), "processing_class": tiny_processor()}
    settings = {**QUIET, "max_steps": 3, "lora_rank": RANK, "lora_alpha": ALPHA, "learning_rate": 0.05, **settings}
    data = {"train_dataset": rows(random_batch(32, dtype=model.dtype)), "data_collator": stack}
    return cls(copy.deepcopy(model), arguments(folder, **settings), **data, **names, callbacks=list(callbacks))


def by_hand(trainer, dtype=torch.float64):
    """The weights of the plain model by the formulas of the papers, from nothing but the tensors of the run."""
    state, args = {name: value.to(dtype, copy=True) for name, value in trainer.model.state_dict().items()}, trainer.args
    scale = args.lora_alpha / (args.lora_rank**0.5 if args.lora_rslora else args.lora_rank)
    weights = {}
    for name, value in state.items():
        target = name.removesuffix(".base_layer.weight")
        if target != name:
            value = value + scale * state[f"{target}.lora_B.default.weight"] @ state[f"{target}.lora_A.default.weight"]
            if args.lora_dora:
                value *= state[f"{target}.lora_magnitude_vector.default.weight"][:, None] / value.norm(dim=1, keepdim=True)
        if ".lora_" not in name:
            weights[name.replace(".base_layer.", ".")] = value
    return weights


def logits(model, dtype=torch.float64):
    batch = random_batch(6, seed=3, dtype=dtype)
    model.eval()
    with torch.no_grad():
        return model(pixel_values=batch["pixel_values"], input_ids=batch["input_ids"]).logits_per_image


def trained_parameters(trainer):
    return {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}


def test_a_step_is_one_by_hand(tiny_clip, tmp_path):
    """With the matrices of a run and W + s B A in place of each weight, by nothing but torch."""
    model = tiny_clip.double()
    trainer = trainer_of("flyp", model, tmp_path, max_steps=2)
    start = {name: value.clone() for name, value in trainer.model.state_dict().items() if "lora_" in name}
    batches = []
    collate = trainer.data_collator
    trainer.data_collator = lambda examples: batches.append(collate(examples)) or batches[-1]
    trainer.train()
    names = sorted({name.partition(".lora_")[0] for name in start})
    assert len(names) == 2 * 2 * 6
    pairs = {n: (start[f"{n}.lora_A.default.weight"], torch.zeros_like(start[f"{n}.lora_B.default.weight"])) for n in names}
    pairs = {n: [matrix.clone().requires_grad_() for matrix in pair] for n, pair in pairs.items()}
    whole = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters() if "_projection" in n or n == "logit_scale"}
    moved = [*whole.values(), *(matrix for pair in pairs.values() for matrix in pair)]
    for batch in batches[:2]:
        weights = dict(model.named_parameters()) | whole
        weights |= {f"{n}.weight": weights[f"{n}.weight"].detach() + ALPHA / RANK * b @ a for n, (a, b) in pairs.items()}
        inputs = {"pixel_values": batch["pixel_values"], "input_ids": batch["input_ids"]}
        scores = torch.func.functional_call(model, weights, kwargs=inputs).logits_per_image
        target = torch.arange(len(scores))
        loss = (nn.functional.cross_entropy(scores, target) + nn.functional.cross_entropy(scores.t(), target)) / 2
        for parameter, gradient in zip(moved, torch.autograd.grad(loss, moved), strict=True):
            decay = parameter.ndim > 1
            parameter.data -= 0.05 * (gradient + (0.1 * parameter.data if decay else 0))
    end = trainer.model.state_dict()
    for name, (a, b) in pairs.items():
        torch.testing.assert_close(end[f"{name}.lora_A.default.weight"], a.detach(), rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(end[f"{name}.lora_B.default.weight"], b.detach(), rtol=1e-10, atol=1e-13)
        assert torch.equal(end[f"{name}.base_layer.weight"], model.get_parameter(f"{name}.weight")) and b.abs().max() > 0
    for name, value in whole.items():
        torch.testing.assert_close(end[name], value.detach(), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    ("settings", "dtype", "limit"),
    [
        ({}, torch.float64, 1e-12),
        # 42 units of the last place: how far merged weights and factors round apart depends on the processor.
        ({}, torch.float32, 5e-6),
        ({"lora_rslora": True, "lora_dropout": 0.2, "lora_towers": "text"}, torch.float64, 1e-12),
        ({"lora_dora": True, "train": "image,projections", "train_last_layers": 1}, torch.float64, 1e-12),
    ],
)
def test_what_is_saved_is_a_plain_model_with_the_same_answers(tiny_clip, tmp_path, settings, dtype, limit):
    model = tiny_clip.to(dtype)
    trainer = trainer_of("flyp", model, tmp_path, **settings)
    torch.testing.assert_close(logits(trainer.model, dtype), logits(model, dtype), rtol=0, atol=limit)
    trainer.train()
    unmerged, held = logits(trainer.model, dtype), {n: p.clone() for n, p in trainer.model.state_dict().items()}
    assert (unmerged - logits(model, dtype)).abs().max() > 1e-3
    trainer.save_model(str(tmp_path / "saved"))
    assert not (tmp_path / "saved" / ADAPTER_FOLDER).exists()
    saved = CLIPModel.from_pretrained(tmp_path / "saved", dtype=dtype)
    assert saved.state_dict().keys() == model.state_dict().keys()
    for name, value in by_hand(trainer).items():
        torch.testing.assert_close(saved.state_dict()[name].double(), value, rtol=0, atol=1e-7 if dtype == torch.float32 else 1e-15)
    assert (unmerged - logits(saved, dtype)).abs().max() <= limit * unmerged.abs().max()
    # And the run goes on from the very bits that it had.
    assert all(torch.equal(value, held[name]) for name, value in trainer.model.state_dict().items())
    towers = {"image": "vision_model.", "text": "text_model."}
    adapted = {name for name in trained_parameters(trainer) if ".lora_" in name}
    chosen = settings.get("lora_towers", settings.get("train", "image,text")).split(",")
    assert {name.partition(".")[0] + "." for name in adapted} == {towers[name] for name in chosen if name in towers}
    assert {n for n in trained_parameters(trainer) if n.startswith(tuple(towers.values()))} == adapted
    if "train_last_layers" in settings:
        assert all(".layers.1." in name for name in adapted) and "logit_scale" not in trained_parameters(trainer)


def test_the_adapter_is_kept_in_the_format_of_peft(tiny_clip, tmp_path):
    from peft import PeftModel

    trainer = trainer_of("flyp", tiny_clip.double(), tmp_path, lora_keep_adapter=True, lora_dora=True)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    loaded = PeftModel.from_pretrained(copy.deepcopy(tiny_clip), str(tmp_path / "saved" / ADAPTER_FOLDER))
    assert (logits(loaded) - logits(trainer.model)).abs().max() <= 1e-12
    assert (logits(loaded.merge_and_unload()) - logits(trainer.model)).abs().max() <= 1e-12
    assert sorted(path.name for path in (tmp_path / "saved" / ADAPTER_FOLDER).iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


@pytest.mark.parametrize("kind", ["ema", "trajectory"])
def test_a_teacher_is_an_average_of_effective_weights(tiny_clip, tmp_path, kind):
    states = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            states.append(by_hand(self.trainer))

    watch = Watch()
    settings = {"teacher": kind, "export_weights": "teacher"} | ({"ema_warmup_ratio": 0.0} if kind == "ema" else {})
    watch.trainer = trainer_of("carot", tiny_clip.double(), tmp_path, [watch], **settings)
    start = {name: value.clone() for name, value in tiny_clip.state_dict().items()}
    watch.trainer.train()
    assert watch.trainer.teacher.state_dict().keys() == start.keys() and len(states) == 3
    if kind == "ema":
        shares = [0.9**3, 0.1 * 0.9**2, 0.1 * 0.9, 0.1]
    else:
        weights = [((i + 0.5) * (3 - i + 0.5)) ** -0.5 for i in range(4)]
        shares = [weight / sum(weights) for weight in weights]
    for name, value in watch.trainer.teacher.named_parameters():
        want = sum(share * state[name] for share, state in zip(shares, [start, *states], strict=True))
        torch.testing.assert_close(value.detach(), want, rtol=1e-12, atol=1e-13, msg=name)
    watch.trainer.save_model(str(tmp_path / "saved"))
    saved = CLIPModel.from_pretrained(tmp_path / "saved", dtype=torch.float64).state_dict()
    assert all(torch.equal(saved[name], value) for name, value in watch.trainer.teacher.state_dict().items())


def test_a_penalty_is_on_effective_weights(tiny_clip, tmp_path):
    trainer = trainer_of("l2_sp", tiny_clip.double(), tmp_path, l2_sp_weight=0.7)
    trainer.train()
    start, now = tiny_clip.state_dict(), by_hand(trainer)
    pairs = trainer.start_weights()
    wanted = sum((now[name] - start[name]).square().sum() for name in start)
    penalty = starting_weights_penalty(pairs.values())
    assert penalty.item() == pytest.approx(wanted.item(), rel=1e-12) and wanted > 1e-6
    # Its gradient by an adapter is that of the formula.
    name = "vision_model.encoder.layers.0.mlp.fc1"
    up, down = (trainer.model.get_parameter(f"{name}.lora_{x}.default.weight") for x in "BA")
    by_up, by_down = torch.autograd.grad(penalty, [up, down])
    change = 2 * (ALPHA / RANK) ** 2 * up.detach() @ down.detach()
    torch.testing.assert_close(by_up, change @ down.detach().t(), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(by_down, up.detach().t() @ change, rtol=1e-10, atol=1e-14)


def test_merges_are_of_effective_weights(tiny_clip, tmp_path):
    trainer = trainer_of("ft", tiny_clip.double(), tmp_path)
    trainer.train()
    with trainer.exported_weights() as trained:
        merged = interpolate_weights(tiny_clip, trained, 0.3)
    merged = merged if isinstance(merged, dict) else merged.state_dict()
    for name, value in by_hand(trainer).items():
        torch.testing.assert_close(merged[name], 0.7 * tiny_clip.state_dict()[name] + 0.3 * value, rtol=1e-12, atol=1e-15)


def test_adapters_of_croft_sit_on_effective_weights(tiny_clip, tmp_path):
    trainer = trainer_of("carot+croft", tiny_clip.double(), tmp_path, class_templates_per_step=0)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    saved, projections = CLIPModel.from_pretrained(tmp_path / "saved", dtype=torch.float64), trainer.adapters.effective_projections(trainer.model)
    assert torch.allclose(saved.visual_projection.weight, projections["visual_projection.weight"], rtol=0, atol=1e-14)
    # By the fingerprints of the model before and after, of which no file but this one holds the former.
    adapters = load_adapters(saved, tmp_path / "saved")
    assert torch.equal(adapters.image_adapter, trainer.adapters.image_adapter)
    for name, value in by_hand(trainer).items():
        torch.testing.assert_close(saved.state_dict()[name], value, rtol=0, atol=1e-15)


@pytest.mark.same_bits("resumed from what was saved; the same batches in the same order")
def test_killed_and_resumed_equals_uninterrupted(tiny_clip, tmp_path):
    settings = {"lora_rank": 2, "lora_dropout": 0.3, "max_steps": 4, "contrastive_chunk_size": 3, "log_gradient_shares": 0.0}
    whole = resumable(CaRotTrainer, tiny_clip, tmp_path / "whole", **settings)
    whole.train()
    with pytest.raises(Killed):
        resumable(CaRotTrainer, tiny_clip, tmp_path / "killed", callbacks=[Kill(2)], **settings).train()
    checkpoint = tmp_path / "killed" / "checkpoint-2"
    with pytest.raises(ValueError, match="`lora_rank=2`, this run has `lora_rank=0`"):
        resumable(CaRotTrainer, tiny_clip, tmp_path / "killed").train(resume_from_checkpoint=str(checkpoint))
    with pytest.raises(ValueError, match="holds LoRA adapters that are not merged") as caught:
        load_dual_encoder(str(checkpoint))
    assert "\n" not in str(caught.value)
    resumed = resumable(CaRotTrainer, tiny_clip, tmp_path / "killed", **settings)
    resumed.train(resume_from_checkpoint=True)
    assert_same_run(whole, resumed)


def test_chunks_dropout_and_bfloat16(tiny_clip, tmp_path):
    losses = {}
    for name, settings in {"whole": {}, "chunks": {"contrastive_chunk_size": 3}, "bf16": {"bf16": True}}.items():
        trainer = trainer_of("carot", tiny_clip.double() if name != "bf16" else tiny_clip.float(), tmp_path, max_steps=2, **settings)
        trainer.train()
        losses[name] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert all(p.dtype == trainer.model.dtype for p in trainer.lora.parameters())
    assert losses["chunks"] == pytest.approx(losses["whole"], rel=1e-12)
    assert losses["bf16"] == pytest.approx(losses["whole"], rel=0.05) and losses["bf16"] != losses["whole"]
    # Dropout within adapters is noise of the tower: a caption that repeats is encoded each time.
    quiet, noisy = trainer_of("flyp", tiny_clip, tmp_path), trainer_of("flyp", tiny_clip, tmp_path, lora_dropout=0.5)
    sides = [DualEncoder.of(trainer.model.train()).text_side() for trainer in (quiet, noisy)]
    assert [draws_noise(side) for side in sides] == [False, True] and not draws_noise(sides[1].eval())
    batch = {name: value[:1].repeat(4, *[1] * (value.ndim - 1)) for name, value in random_batch(4).items()}
    noisy.train()
    noisy.model.train()
    embeds = noisy._encode_student(noisy.model, batch).text_embeds
    assert not torch.equal(embeds[0], embeds[1])


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_adapters_are_in_every_layer_of_every_family(family):
    model = family_model(family).double()
    encoder = DualEncoder.of(model)
    names = adapted_maps(model, ("image", "text"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapters = LowRankAdapters.add(model, names, rank=2, alpha=4.0)
    assert len(names) == {"blip": 2 * (4 + 6), "aimv2": 2 * 2 * 7}.get(family, 2 * 2 * 6) and not any(p.requires_grad for n in names for p in adapters.layers[n].get_base_layer().parameters())
    generator = torch.Generator().manual_seed(1)
    for parameter in adapters.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    pixels = family_images(family, 2, dtype=torch.float64)
    ids = torch.randint(5, 20, (2, 6))
    ids[:, -1] = encoder.caption_rules.end_of_text if isinstance(encoder.caption_rules.end_of_text, int) else 1
    with torch.no_grad():
        apart = encoder.image_features(pixels), encoder.text_features(ids)
        with adapters.merged():
            assert model.state_dict().keys() == before.keys()
            merged = encoder.image_features(pixels), encoder.text_features(ids)
            assert not torch.equal(model.state_dict()[f"{names[0]}.weight"], before[f"{names[0]}.weight"])
    for one, other in zip(apart, merged, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="holds adapters of PEFT already"):
        adapted_maps(model, ("image",))


@pytest.mark.parametrize("method", ["flyp", "lp"])
def test_the_model_of_a_run_with_adapters_is_refused_by_the_next_trainer(tiny_clip, tmp_path, method):
    # It trained the adapters on, and saved a folder that nothing could load.
    used = trainer_of("flyp", tiny_clip, tmp_path).model
    names = {"class_names": CLASSES, "templates": ("a {}.",), "processing_class": tiny_processor()} if method == "lp" else {}
    data = {"train_dataset": rows(random_batch(8)), "data_collator": stack}
    with pytest.raises(ValueError, match="holds adapters of PEFT already.*load the folder") as caught:
        METHODS[method](used, arguments(tmp_path), **data, **names)
    assert "\n" not in str(caught.value)


REFUSED = [
    ("flyp", {"lora_rank": -1}, "`lora_rank=-1` must be"),
    ("flyp", {"lora_alpha": 4.0}, "`lora_alpha=4.0` was given and would do nothing: `lora_rank=0`"),
    ("flyp", {"lora_keep_adapter": True}, "`lora_keep_adapter=True` was given and would do nothing"),
    ("flyp", {"lora_rank": 2, "train": "projections"}, "`lora_rank=2` trains towers by adapters, and `train=projections`"),
    ("flyp", {"lora_rank": 2, "lora_towers": "vision"}, r"`lora_towers=vision`: there is no 'vision'; did you mean image\?"),
    ("flyp", {"lora_rank": 2, "lora_towers": "scale"}, "`lora_towers=scale`: there is no 'scale'; give some of image, text"),
    ("flyp", {"lora_rank": 2, "train": "image", "lora_towers": "text"}, "`lora_towers=text` names text, which `train=image` leaves"),
    ("flyp", {"lora_rank": 2, "train": "image,text", "lora_towers": "image"}, "names text, which `lora_towers=image` leaves"),
    ("ft", {"lora_rank": 2, "lora_towers": "text"}, "`lora_towers=text` names text, which .* in the method 'ft' leaves"),
    ("flyp", {"lora_rank": 2, "fully_shard": True}, "`lora_rank=2` does not go together with `fully_shard`"),
    ("carot", {"lora_rank": 2, "lora_keep_adapter": True, "export_weights": "teacher"}, "`lora_keep_adapter`.*`export_weights=teacher`"),
    ("flyp", {"lora_rank": 2, "train_last_layers": 3}, "`train_last_layers=3`: the image tower of a .* has 2 layers"),
    *((method, {"lora_rank": 2}, f"`lora_rank=2` was given, and the method '{method}' does not use it") for method in ("lp", "croft")),
]


@pytest.mark.parametrize(("method", "settings", "message"), REFUSED)
def test_what_no_run_can_do_is_refused_before_anything_is_loaded(tiny_clip, tmp_path, method, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        args = arguments(tmp_path, **settings)
        METHODS[method].check_settings(args)
        METHODS[method].check_model(args, DualEncoder.of(tiny_clip.to("meta")))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_a_rank_above_that_of_the_smallest_map_is_refused_before_anything_is_loaded(family, tmp_path):
    encoder = DualEncoder.of(family_model(family).to("meta"))
    smallest = min(min(encoder.core.get_submodule(name).weight.shape) for name in adapted_maps(encoder.core, ("image", "text")))
    METHODS["flyp"].check_model(arguments(tmp_path, lora_rank=smallest), encoder)
    with pytest.raises(ValueError, match=rf"`lora_rank={smallest + 1}` is above {smallest}, .*--lora_rank") as caught:
        METHODS["flyp"].check_model(arguments(tmp_path, lora_rank=smallest + 1), encoder)
    assert "\n" not in str(caught.value)


def test_without_peft_it_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=re.escape('`lora_rank` needs PEFT, which is not installed: pip install "hf_robustft[lora]"')):
        FLYPTrainer.check_settings(arguments(tmp_path, lora_rank=8))
    FLYPTrainer.check_settings(arguments(tmp_path))


def test_a_tower_without_linear_maps_is_refused(tmp_path):
    model = CLIPModel(tiny_config())
    for layer in model.text_model.encoder.layers:
        layer.self_attn, layer.mlp = nn.Identity(), nn.Identity()
    with pytest.raises(ValueError, match="`lora_rank`: the text tower of this CLIPModel has no layers with linear maps"):
        trainer_of("flyp", model, tmp_path)


def test_a_folder_says_what_trained(tiny_clip, tmp_path):
    settings = {"lora_rank": 2, "lora_keep_adapter": True, "max_steps": 1, "save_strategy": "no", "log_gradient_shares": 0.0}
    trainer = resumable(FLYPTrainer, tiny_clip, tmp_path / "run", **settings)
    trainer.train()
    trainer.save_model()
    model, _ = load_dual_encoder(str(tmp_path / "run"))
    weights = by_hand(trainer)
    assert all(torch.allclose(value.double(), weights[name], atol=1e-6) for name, value in model.state_dict().items())
    recorded = json.loads((tmp_path / "run" / "robustft.json").read_text())["settings"]
    assert {"lora_rank": 2, "lora_keep_adapter": True}.items() <= recorded.items()
    # For the card.
    count = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    every = sum(p.numel() for p in tiny_clip.parameters())
    said = trainer.checkpoint_facts()["run"]["Trained"]
    assert said == f"LoRA of rank 2 in image and text, projections, scale: {count:,} parameters of a model of {every:,}"
    assert (tmp_path / "run" / ADAPTER_FOLDER / "adapter_model.safetensors").is_file()
    kept = trainer.checkpoint_facts()["run"]["Adapters"]
    assert f"in the folder {ADAPTER_FOLDER}" in kept and f"PeftModel.from_pretrained(base, '{ADAPTER_FOLDER}')" in kept
    # They stay where a temperature is folded into the weights.
    labels = [i % 3 for i in range(12)]
    validation = Benchmark.from_dataset(
        image_dataset(12).remove_columns("label").add_column("label", labels), name="val", role="validation", class_names=CLASSES
    )
    finish_checkpoint(tmp_path / "run", validation=validation, detector="none", fold_temperature=True)
    assert json.loads((tmp_path / "run" / "robustft.json").read_text())["temperature"]["folded"] != 1
    assert (tmp_path / "run" / ADAPTER_FOLDER / "adapter_model.safetensors").is_file()
    # A run without adapters that takes its place takes theirs too.
    plain = resumable(FLYPTrainer, tiny_clip, tmp_path / "run", save_strategy="no")
    plain.save_model()
    assert "Adapters" not in (plain.checkpoint_facts()["run"] or {})
    assert not (tmp_path / "run" / ADAPTER_FOLDER / "adapter_model.safetensors").exists()
