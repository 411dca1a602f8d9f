# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The gradient cache: the gradients of the whole batch, in the memory of a chunk."""

import copy
import json
from pathlib import Path

import pytest
import torch
from helpers import CLASSES, TEMPLATES, arguments, random_batch, rows, stack, step_logs, tiny_config, tiny_processor
from helpers.families import family_batch, family_model
from helpers.forked import run_ranks
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPConfig, CLIPModel, TrainerCallback

from hf_robustft import CaRotTrainer, CRoFTTrainer, FLYPTrainer, ObjectiveMixin, RobustTrainer, SingularValueMixin
from hf_robustft.modeling.features import encode
from hf_robustft.training import gradient_cache
from hf_robustft.training.gradient_cache import CachedEncoding, divide, encode_in_chunks, join
from hf_robustft.training.methods import METHODS

WORKER = Path(__file__).parents[1] / "distributed" / "train_worker.py"


class Gradients(TrainerCallback):
    """Keeps the gradients of every parameter at each optimizer step."""

    def __init__(self, scaler=None):
        self.steps, self.scaler = [], scaler

    def on_train_begin(self, args, state, control, **kwargs):
        if self.scaler is not None:
            self.trainer.accelerator.scaler = self.scaler

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        modules = {"model": self.trainer.model, **self.trainer.trainable_modules()}
        named = {f"{key}.{name}": p for key, module in modules.items() for name, p in module.named_parameters()}
        self.steps.append({name: None if p.grad is None else p.grad.clone() for name, p in named.items()})


def run(cls, model, tmp_path, *, n=24, batch=None, scaler=None, **settings):
    """Train a copy of `model` for three steps of 8 pairs; returns the gradients of each step, and the trainer."""
    model, recorder = copy.deepcopy(model), Gradients(scaler)
    batch = random_batch(n, dtype=next(model.parameters()).dtype) if batch is None else batch
    defaults = {"num_train_epochs": 1, "optim": "sgd", "learning_rate": 1e-3, "max_grad_norm": 0.0, "warmup_steps": 0}
    names = {}
    if cls.needs_labels:
        names = {"class_names": CLASSES, "templates": TEMPLATES, "processing_class": tiny_processor()}
    trainer = cls(
        model,
        arguments(tmp_path, **{**defaults, **settings}),
        train_dataset=rows(batch),
        data_collator=stack,
        callbacks=[recorder],
        **names,
    )
    recorder.trainer = trainer
    trainer.train()
    return recorder.steps, trainer


def assert_same(got, want, limit):
    """`max|got - want| / max|want|` of every parameter and step; absolutely where the gradient is zero but for noise."""
    assert len(got) == len(want) > 0
    for step, (one, two) in enumerate(zip(got, want, strict=True)):
        assert one.keys() == two.keys()
        for name, value in two.items():
            assert (value is None) == (one[name] is None), name
            if value is None:
                continue
            scale = 1.0 if "k_proj.bias" in name else value.abs().max().item()
            error = (one[name] - value).abs().max().item()
            assert error <= limit * scale, f"step {step}, {name}: {error / scale:.2g}"


# ---- Exact ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "size"),
    [
        *((method, size) for method in ("carot", "tracer", "flyp", "ft", "carot+croft") for size in (1, 3, 4)),
        *((method, 3) for method in ("covariance_anchor", "lp_ft", "l2_sp", "car_ft", "lipsum_ft")),
    ],
)
def test_gradients_are_those_of_the_whole_batch(tiny_clip, tmp_path, method, size):
    cls, model = METHODS[method], tiny_clip.double()
    plain, whole = run(cls, model, tmp_path)
    cached, parts = run(cls, model, tmp_path, contrastive_chunk_size=size)
    assert plain[0]["model.vision_model.embeddings.class_embedding"].abs().max() > 1e-6
    assert (plain[0]["model.logit_scale"] is None) == (whole.head is not None)
    assert_same(cached, plain, 1e-12)
    for one, two in zip(step_logs(whole), step_logs(parts), strict=True):
        assert one.keys() == two.keys()
        for name in ("grad_norm", *(name for name in one if name.startswith("loss"))):
            assert two[name] == pytest.approx(one[name], rel=1e-12), name
    assert ("loss/self_distillation" in step_logs(parts)[1]) == ("carot" in method or method == "covariance_anchor")
    assert ("loss/covariance_anchor" in step_logs(parts)[1]) == (method == "covariance_anchor")
    assert ("loss/feature_distillation" in step_logs(parts)[1]) == (method == "tracer")


def test_the_scale_is_counted_once(tiny_clip, tmp_path):
    # Eight chunks that each took the whole loss's gradient of the scale would have it eight times.
    model = tiny_clip.double()
    plain, _ = run(FLYPTrainer, model, tmp_path)
    cached, _ = run(FLYPTrainer, model, tmp_path, contrastive_chunk_size=1)
    ratio = cached[0]["model.logit_scale"] / plain[0]["model.logit_scale"]
    assert ratio.item() == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "method", "size"),
    [("siglip", "flyp", 1), ("siglip", "tracer", 3), ("siglip", "covariance_anchor", 3), ("siglip2", "tracer", 3)],
)
def test_of_siglip_too_and_its_bias_is_counted_once(tmp_path, name, method, size):
    model = family_model(name).double()
    settings = {"batch": family_batch(name, 24, dtype=torch.float64), "contrastive_positives": "same_label"}
    plain, _ = run(METHODS[method], model, tmp_path, **settings)
    cached, trainer = run(METHODS[method], model, tmp_path, contrastive_chunk_size=size, **settings)
    assert all(step["model.logit_bias"].abs().item() > 1e-6 for step in plain)
    # Transformers' SigLIP 2 stretches its positions in float32, whatever it is in.
    assert_same(cached, plain, 1e-6 if name == "siglip2" else 1e-12)
    assert "logit_bias" in step_logs(trainer)[0]


@pytest.mark.parametrize("templates", [0, 1])
def test_class_prompts_are_shared_out(tiny_clip, tmp_path, templates):
    cls, settings = METHODS["carot+croft"], {"class_templates_per_step": templates}
    plain, _ = run(cls, tiny_clip.double(), tmp_path, **settings)
    # With one prompt a class there are fewer prompts than chunks.
    cached, _ = run(cls, tiny_clip.double(), tmp_path, contrastive_chunk_size=1, **settings)
    assert_same(cached, plain, 1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        {"gradient_accumulation_steps": 2, "num_train_epochs": 2, "per_device_train_batch_size": 4},
        {"activation_checkpointing": True},
        {"contrastive_positives": "same_label", "contrastive_label_smoothing": 0.1},
        {"max_grad_norm": 0.01},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_other_settings_combine(tiny_clip, tmp_path, settings):
    model = tiny_clip.double()
    plain, _ = run(CaRotTrainer, model, tmp_path, **settings)
    cached, _ = run(CaRotTrainer, model, tmp_path, contrastive_chunk_size=3, **settings)
    assert_same(cached, plain, 1e-12)


def test_a_scaled_loss_scales_every_gradient(tiny_clip, tmp_path):
    # The optimizer knows nothing of this scaler: at this rate the weights stay where they are.
    scaler, settings = torch.amp.GradScaler("cpu", init_scale=1024.0), {"learning_rate": 1e-30}
    plain, _ = run(CaRotTrainer, tiny_clip.double(), tmp_path, **settings)
    scaled, _ = run(CaRotTrainer, tiny_clip.double(), tmp_path, contrastive_chunk_size=3, scaler=scaler, **settings)
    assert_same([{name: g / 1024 for name, g in step.items()} for step in scaled], plain, 1e-12)


class Noisy(ObjectiveMixin):
    """A term that draws numbers of its own."""

    def loss_terms(self, features, batch):
        noise = torch.randn_like(features.image_embeds)
        return {**super().loss_terms(features, batch), "noise": (noise * features.image_embeds).sum()}


class NoisyTrainer(Noisy, CaRotTrainer):
    method = "noisy"


class WithGraph(NoisyTrainer):
    """Encodes the same chunks, and keeps the graph of all of them."""

    def _encode_student(self, model, batch):
        return encode_in_chunks(model, batch, 3, self._encodes_captions, self.extra_texts())


def test_dropout_is_replayed(tmp_path, monkeypatch):
    config = tiny_config().to_dict()
    for tower in ("text_config", "vision_config"):
        config[tower]["attention_dropout"] = 0.5
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig.from_dict(config)).double()
    kept, _ = run(WithGraph, model, tmp_path)
    cached, _ = run(NoisyTrainer, model, tmp_path, contrastive_chunk_size=3)
    assert_same(cached, kept, 1e-12)
    monkeypatch.setattr(gradient_cache._Randomness, "restore", lambda self: None)
    other, _ = run(NoisyTrainer, model, tmp_path, contrastive_chunk_size=3)
    with pytest.raises(AssertionError, match="step 0"):
        assert_same(other, kept, 1e-3)


def test_autocast_leaves_no_parameter_without_gradient(tiny_clip, tmp_path):
    kept, _ = run(WithGraph, tiny_clip, tmp_path, bf16=True)
    cached, _ = run(NoisyTrainer, tiny_clip, tmp_path, bf16=True, contrastive_chunk_size=3)
    exact, _ = run(NoisyTrainer, tiny_clip, tmp_path, contrastive_chunk_size=3)
    assert all(value is not None and value.dtype == torch.float32 for value in cached[0].values())
    # The first step alone: later ones start from weights that differ by rounding, which bfloat16 may amplify.
    assert_same(cached[:1], kept[:1], 1e-5)
    with pytest.raises(AssertionError):
        assert_same(cached[:1], exact[:1], 1e-5)


def test_the_teacher_runs_in_the_students_precision(tiny_clip, tmp_path):
    dtypes = []

    class Watched(CaRotTrainer):
        def prepare_training(self, total_steps):
            super().prepare_training(total_steps)
            layer = self.teacher.vision_model.encoder.layers[0].mlp.fc1
            layer.register_forward_hook(lambda module, args, output: dtypes.append(output.dtype))

    for settings in ({}, {"bf16": True}):
        run(Watched, tiny_clip, tmp_path, **settings)
    assert set(dtypes[: len(dtypes) // 2]) == {torch.float32}
    assert set(dtypes[len(dtypes) // 2 :]) == {torch.bfloat16}


def test_a_loss_of_ones_own_is_whole(tiny_clip, tmp_path):
    # Outside a training step nobody would run the second pass: the loss then has the whole graph.
    gradients = []
    for size in (0, 3):
        model = copy.deepcopy(tiny_clip).double()
        trainer = FLYPTrainer(model, arguments(tmp_path, contrastive_chunk_size=size))
        trainer.current_gradient_accumulation_steps = 1
        trainer.compute_loss(model, random_batch(8, dtype=torch.float64)).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(value is not None for value in gradients[0].values())
    assert_same(gradients[1:], gradients[:1], 1e-12)


class OnlySingularTrainer(SingularValueMixin, RobustTrainer):
    method = "only_singular"


def test_terms_of_parameters_alone(tiny_clip, tmp_path):
    plain, _ = run(OnlySingularTrainer, tiny_clip.double(), tmp_path)
    cached, _ = run(OnlySingularTrainer, tiny_clip.double(), tmp_path, contrastive_chunk_size=3)
    assert plain[0]["model.logit_scale"] is None
    assert_same(cached, plain, 1e-12)


def test_frozen_encoders_are_encoded_in_chunks(tiny_clip, tmp_path, monkeypatch):
    plain, _ = run(CRoFTTrainer, tiny_clip.double(), tmp_path)
    sizes = []

    def counted(model, batch, **kwargs):
        sizes.append(len(batch["pixel_values"]))
        return encode(model, batch, **kwargs)

    monkeypatch.setattr(gradient_cache, "encode", counted)
    cached, _ = run(CRoFTTrainer, tiny_clip.double(), tmp_path, contrastive_chunk_size=3)
    assert sizes == 3 * [3, 3, 2]
    assert_same(cached, plain, 1e-12)


def test_a_batch_within_a_chunk_is_encoded_once(tiny_clip, tmp_path, monkeypatch):
    calls = []

    def counted(model, batch, **kwargs):
        calls.append(len(batch["pixel_values"]))
        return encode(model, batch, **kwargs)

    monkeypatch.setattr(gradient_cache, "encode", counted)
    run(FLYPTrainer, tiny_clip, tmp_path, contrastive_chunk_size=8)
    assert calls == [8, 8, 8]
    calls.clear()
    run(FLYPTrainer, tiny_clip, tmp_path, contrastive_chunk_size=5)
    assert calls == 3 * [5, 3, 5, 3]


# ---- Several processes ----------------------------------------------------------------------------------------------


def worker(tmp_path, name, processes, method, settings):
    output = tmp_path / name
    output.mkdir()
    ended = run_ranks(processes, WORKER, method, output, processes, json.dumps(settings))
    assert ended.returncode == 0, ended.stderr[-3000:]
    return load_file(output / "end.safetensors")


@pytest.mark.parametrize(
    ("method", "plain_processes", "settings"),
    [
        ("carot+croft", 1, {}),
        # Pieces of an accumulated step see the negatives of their own piece only: compared with the same pieces.
        ("carot", 2, {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}),
    ],
)
def test_two_processes_in_chunks_equal_the_whole_batch(tmp_path, method, plain_processes, settings):
    plain = worker(tmp_path, "plain", plain_processes, method, settings)
    chunks = worker(tmp_path, "chunks", 2, method, {**settings, "contrastive_chunk_size": 2})
    assert plain.keys() == chunks.keys()
    for name, value in plain.items():
        torch.testing.assert_close(
            chunks[name], value, rtol=0, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )


# ---- Memory ---------------------------------------------------------------------------------------------------------


def peak_of_a_step(tmp_path, size, chunk, name):
    """Bytes that one training step with a teacher allocates beyond what is there before it."""
    tower = {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 3}
    config = tiny_config().to_dict()
    config["text_config"].update(tower)
    config["vision_config"].update(tower, image_size=48)
    torch.manual_seed(0)
    batch = random_batch(size)
    batch["pixel_values"] = torch.randn(size, 3, 48, 48)
    args = arguments(tmp_path, per_device_train_batch_size=size, contrastive_chunk_size=chunk)
    trainer = CaRotTrainer(CLIPModel(CLIPConfig.from_dict(config)), args, train_dataset=[], data_collator=stack)
    trainer.prepare_training(100)
    trainer.optimizer_steps, trainer.current_gradient_accumulation_steps = 1, 1
    for parameter in trainer.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        trainer.training_step(trainer.model, batch)
    profile.export_chrome_trace(str(tmp_path / f"{name}.json"))
    events = json.loads((tmp_path / f"{name}.json").read_text())["traceEvents"]
    memory = [(event["ts"], event["args"]) for event in events if event["name"] == "[memory]"]
    memory.sort(key=lambda event: event[0])
    total = [taken["Total Allocated"] for _, taken in memory]
    return max(total) - (total[0] - memory[0][1]["Bytes"])


def test_memory_is_that_of_a_chunk(tmp_path):
    small = peak_of_a_step(tmp_path, 32, 0, "small")
    large = peak_of_a_step(tmp_path, 512, 32, "large")
    features = 512 * (16 + 16 + 16) * 4
    assert large <= 1.2 * small + features, f"{large / 1e6:.1f} MB at 512 in chunks, {small / 1e6:.1f} MB at 32"
    # What is measured does grow with what is encoded at once.
    assert peak_of_a_step(tmp_path, 64, 0, "double") > 1.8 * small


# ---- Parts ----------------------------------------------------------------------------------------------------------


def test_chunks_cover_the_batch_and_the_texts():
    batch, texts = random_batch(8), torch.arange(10).view(5, 2)
    chunks = divide(batch, texts, 3)
    assert [len(rows["pixel_values"]) for rows, _ in chunks] == [3, 3, 2]
    for key in ("pixel_values", "input_ids"):
        assert torch.equal(torch.cat([rows[key] for rows, _ in chunks]), batch[key])
    assert torch.equal(torch.cat([part for _, part in chunks]), texts)


@pytest.mark.parametrize("n_texts", [1, 2, 7, 8, 9])
def test_the_last_chunk_has_texts(n_texts):
    parts = [part for _, part in divide(random_batch(8), torch.arange(2 * n_texts).view(-1, 2), 1)]
    assert parts[-1] is not None and sum(len(part) for part in parts if part is not None) == n_texts
    assert max(len(part) for part in parts if part is not None) <= -(-n_texts // 8)


@pytest.mark.parametrize("captions", [True, False])
@pytest.mark.parametrize("n_texts", [0, 3])
def test_joined_features_are_those_of_the_batch(tiny_clip, captions, n_texts):
    batch, model = random_batch(8, dtype=torch.float64), tiny_clip.double()
    texts = random_batch(n_texts, seed=1)["input_ids"] if n_texts else None
    with torch.no_grad():
        whole = encode(model, batch, captions=captions, extra_texts=texts)
        parts = join([encode(model, rows, captions=captions, extra_texts=t) for rows, t in divide(batch, texts, 3)])
    for name in ("image_embeds", "text_embeds", "logit_scale", "image_features", "extra_text_features"):
        one, two = getattr(whole, name), getattr(parts, name)
        assert (one is None) == (two is None), name
        if one is not None:
            torch.testing.assert_close(two, one, rtol=0, atol=1e-12)


def test_weights_cast_without_graph_are_not_used_with_one(tiny_clip):
    # Autocast keeps the weights that it has cast until its context ends: here, around both passes.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cache = CachedEncoding(tiny_clip, divide(random_batch(8), None, 3), captions=True)
        (cache.features.logit_scale * cache.features.image_embeds * cache.features.text_embeds).sum().backward()
        cache.backward()
    assert [name for name, p in tiny_clip.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("processes", [1, 2])
def test_a_parameter_without_gradient_does_not_hold_up_the_others(tiny_clip, monkeypatch, processes):
    # DDP waits for every parameter that the last chunk's forward pass was announced with.
    monkeypatch.setattr(gradient_cache, "world_size", lambda: processes)
    cache = CachedEncoding(tiny_clip, divide(random_batch(8), None, 3), captions=True)
    cache.features.image_embeds.sum().backward()
    cache.backward()
    none = [name for name, p in tiny_clip.named_parameters() if p.grad is None]
    assert (none == []) if processes == 2 else any(name.startswith("text_model") for name in none)
    assert not any(p.grad.any() for p in tiny_clip.text_model.parameters() if p.grad is not None)


def test_a_missing_caption_is_found():
    batch = random_batch(8)
    batch["input_ids"] = batch["input_ids"][:7]
    with pytest.raises(ValueError, match="8 images and 7 captions"):
        divide(batch, None, 3)


# ---- Refusals -------------------------------------------------------------------------------------------------------


def refused(model, tmp_path, message, cls=CaRotTrainer, **settings):
    with pytest.raises(ValueError, match=message) as caught:
        cls(model, arguments(tmp_path, contrastive_chunk_size=4, **settings))
    assert "\n" not in str(caught.value)
    settings.pop("torch_compile", None)
    cls(model, arguments(tmp_path, contrastive_chunk_size=0, **settings))


@pytest.mark.parametrize("optimizer", ["lomo", "adalomo", "galore_adamw_layerwise"])
def test_optimizers_that_step_within_backward_are_refused(tiny_clip, tmp_path, optimizer):
    refused(
        tiny_clip, tmp_path, f"`optim={optimizer}` steps during the backward pass.*another optimizer", optim=optimizer
    )


def test_batch_statistics_are_refused(tiny_clip, tmp_path):
    tiny_clip.vision_model.post_layernorm = nn.BatchNorm1d(32)
    refused(tiny_clip, tmp_path, r"`vision_model.post_layernorm` \(BatchNorm1d\).*set it to 0")


def test_compiled_dropout_is_refused(tiny_clip, tmp_path):
    tiny_clip.text_model.encoder.layers[0].self_attn.dropout = 0.1
    refused(tiny_clip, tmp_path, "compiled model may draw other dropout masks", torch_compile=True)


@pytest.mark.parametrize(("flag", "name"), [("is_fsdp_enabled", "FSDP"), ("is_deepspeed_enabled", "DeepSpeed")])
def test_sharded_training_is_refused(tiny_clip, tmp_path, flag, name):
    class Sharded(CaRotTrainer):
        def create_accelerator_and_postprocess(self):
            super().create_accelerator_and_postprocess()
            setattr(self, flag, True)

    refused(tiny_clip, tmp_path, f"several backward passes a step, which {name}.*use DDP", cls=Sharded)


def test_accumulation_of_a_contrastive_loss_is_warned_of(tiny_clip, tmp_path):
    with pytest.warns(UserWarning, match="contrasted within each micro-batch only.*--contrastive_chunk_size"):
        FLYPTrainer(tiny_clip, arguments(tmp_path, gradient_accumulation_steps=2))
