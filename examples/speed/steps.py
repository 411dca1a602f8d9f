# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Items a, b, c: a training step of ours, of a bare loop that does the same arithmetic, of FLYP, and of the reference."""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from table import Row
from torch.profiler import record_function
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback
from turns import Contender, interleave, median_ratio
from workload import POSITIONS, Pairs, collate, random_model

from hf_robustft import RobustTrainingArguments
from hf_robustft.training.given import Suggested
from hf_robustft.training.methods import METHODS

#: Of the published settings: weights of the terms, momentum of the teacher.
ORTHOGONALITY, CROSS, DISTILLATION, MOMENTUM = 0.2, 0.05, 1.5, 0.05
LEARNING_RATE, DECAY, CLIP = 1e-5, 0.1, 1.0
#: Optimizer steps between two moves of the teacher in the published runs: none falls into those that are timed.
PUBLISHED_INTERVAL = 500
#: A run that nobody waits for the end of.
TOTAL_STEPS = 10_000


class TakesTurns(TrainerCallback):
    """Calls `turn` before the first step of a Trainer and after each; ends its run on `False`."""

    def __init__(self, turn, device: torch.device):
        self.turn, self.device = turn, device

    def on_train_begin(self, args, state, control, **kwargs):
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
        control.should_training_stop = not self.turn()

    on_step_end = on_train_begin


def ours(
    turn,
    method: str,
    model: str,
    batch: int,
    device: str = "cpu",
    caption_length: int | None = None,
    captions: int | None = None,
    **settings,
) -> None:
    """
    A step of one of our Trainers, inside `train()`.

    Args:
        turn: Called before the first step and after each.
        method (`str`): `"carot"`, `"tracer"` or `"flyp"`.
        model (`str`): Size of the model.
        batch (`int`): Pairs in a step of this process.
        device (`str`, *optional*, defaults to `"cpu"`): Where the pairs lie.
        caption_length (`int`, *optional*): Pad captions to so many tokens; default: to the longest of the batch.
        captions (`int`, *optional*): Different captions; default: no two pairs have the same.
        settings: Of [`RobustTrainingArguments`], beside and instead of those here.
    """
    clip = random_model(model)
    with tempfile.TemporaryDirectory() as folder:
        data = Pairs(clip.config, batch, 1000 * batch, device, captions)
        collator = functools.partial(collate, length=caption_length)
        settings = {"output_dir": folder, "per_device_train_batch_size": batch, **settings}
        trainer = our_trainer(method, clip, settings, train_dataset=data, data_collator=collator)
        # Last, so that a turn ends after the teacher has moved.
        trainer.add_callback(TakesTurns(turn, trainer.args.device))
        trainer.train()
        turn.trainer = trainer


def our_trainer(method: str, clip, settings: dict, **data):
    """
    One of our Trainers, as every item here sets it.

    Args:
        method (`str`): `"carot"`, `"tracer"` or `"flyp"`.
        clip ([`~transformers.CLIPModel`]): The model.
        settings (`dict`): Of [`RobustTrainingArguments`]: output folder and batch, and others beside and instead of those here.
        data (`Any`): `train_dataset`, and `data_collator` or `processing_class`.

    Returns:
        [`RobustTrainer`]
    """
    args = RobustTrainingArguments(
        **{
            "use_cpu": True,
            "max_steps": TOTAL_STEPS,
            "learning_rate": LEARNING_RATE,
            "weight_decay": DECAY,
            "max_grad_norm": CLIP,
            "warmup_steps": 0,
            "lr_scheduler_type": "constant",
            # The teacher moves in every step, so that none of its texts is used again: the dearest case.
            # Of methods that have a teacher, or train the scale.
            "ema_update_every": Suggested(1, "the speed suite"),
            "trajectory_update_every": Suggested(1, "the speed suite"),
            "ema_end_momentum": Suggested(MOMENTUM, "the speed suite"),
            "bound_logit_scale": Suggested(False, "the speed suite"),
            "train_sampling_strategy": "sequential",
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            **settings,
        },
    )
    trainer = METHODS[method](clip, args, **data)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _batches(config, batch: int, collator, captions: int | None = None) -> Iterator[dict]:
    pairs = Pairs(config, batch, 1000 * batch, captions=captions)
    while True:
        yield from DataLoader(pairs, batch_size=batch, collate_fn=collator)


def contrastive(per_image, per_text):
    """The loss of CLIP from the logits (batch, batch) of both directions."""
    target = torch.arange(len(per_image))
    return (F.cross_entropy(per_image, target) + F.cross_entropy(per_text, target)) / 2


def bare(turn, model: str, batch: int) -> None:
    """CaRot in a plain loop over the same batches: the arithmetic of `ours`, the last layers for all tokens, and nothing else."""
    student = random_model(model).train()
    teacher = copy.deepcopy(student).eval().requires_grad_(False)
    weights, averages = list(student.parameters()), list(teacher.parameters())
    spared = [p for n, p in student.named_parameters() if n.endswith(("bias", "norm.weight", "logit_scale"))]
    spared += [p for n, p in student.named_parameters() if n.endswith(("norm1.weight", "norm2.weight"))]
    decayed = [p for p in weights if not any(p is other for other in spared)]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": spared, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, fused=True)
    batches, step, turn.losses = _batches(student.config, batch, collate), 0, []
    identity = torch.eye(student.config.projection_dim)
    while turn():
        inputs = next(batches)
        with record_function("student, forward"):
            output = student(**inputs)
        if step:
            with record_function("teacher, forward"), torch.no_grad():
                target = teacher(**inputs)
        with record_function("losses, forward"):
            loss = contrastive(output.logits_per_image, output.logits_per_text)
            visual, text = student.visual_projection.weight, student.text_projection.weight
            loss = loss + ORTHOGONALITY * torch.linalg.matrix_norm(visual @ visual.t() - identity)
            loss = loss + CROSS * torch.linalg.matrix_norm(visual.t() @ text)
            if step:
                distillation = F.cross_entropy(output.logits_per_image, target.logits_per_image.softmax(dim=1))
                distillation += F.cross_entropy(output.logits_per_text, target.logits_per_text.softmax(dim=1))
                loss = loss + DISTILLATION * distillation
        with record_function("backward"):
            loss.backward()
        with record_function("gradient clipping"):
            torch.nn.utils.clip_grad_norm_(weights, CLIP)
        with record_function("AdamW"):
            optimizer.step()
            optimizer.zero_grad()
        with record_function("EMA"), torch.no_grad():
            torch._foreach_mul_(averages, MOMENTUM)
            torch._foreach_add_(averages, weights, alpha=1 - MOMENTUM)
        turn.losses.append(loss.item())
        step += 1
    turn.model, turn.teacher = student, teacher


def reference(turn, model: str, batch: int, ema_update_every: int = 1, captions: int | None = None) -> None:
    """
    CaRot as the published code does it: captions of 77 tokens, the teacher encodes all of them in every step, one
    parameter after the other in AdamW (torch's default on the CPU), decay on all, and EMA; no clipping.
    """
    student = random_model(model)
    padded = functools.partial(collate, length=POSITIONS)
    reference_loop(turn, student, _batches(student.config, batch, padded, captions), ema_update_every)


def reference_loop(turn, student, batches: Iterator[dict], ema_update_every: int = 1) -> None:
    """The steps of [`reference`] for a model and `batches` of `pixel_values` and `input_ids`."""
    student.train()
    teacher = copy.deepcopy(student).eval()
    optimizer = torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE, weight_decay=DECAY)
    step, turn.losses = 0, []

    def logits(model, inputs):
        image = model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output
        text = model.get_text_features(input_ids=inputs["input_ids"]).pooler_output
        image = image / image.norm(dim=-1, keepdim=True)
        text = text / text.norm(dim=-1, keepdim=True)
        scale = model.logit_scale.exp()
        return scale * image @ text.t(), scale * text @ image.t()

    def soft_cross_entropy(got, wanted):
        return torch.sum(-wanted.softmax(dim=-1) * torch.log(got.softmax(dim=-1)), dim=-1)

    while turn():
        inputs = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE
        optimizer.zero_grad()
        per_image, per_text = logits(student, inputs)
        loss = contrastive(per_image, per_text)
        visual, text = student.visual_projection.weight.t(), student.text_projection.weight.t()
        gram = visual.t() @ visual
        loss = loss + ORTHOGONALITY * ((gram - torch.eye(len(gram))) ** 2).sum() ** 0.5
        loss = loss + CROSS * ((visual @ text.t()) ** 2).sum() ** 0.5
        if step:
            with torch.no_grad():
                image_target, text_target = logits(teacher, inputs)
            both = soft_cross_entropy(per_image, image_target) + soft_cross_entropy(per_text, text_target)
            loss = loss + DISTILLATION * both.mean()
        loss.backward()
        optimizer.step()
        if step % ema_update_every == 0:
            with torch.no_grad():
                for average, weight in zip(teacher.parameters(), student.parameters(), strict=True):
                    average.data = MOMENTUM * average.data + (1 - MOMENTUM) * weight.data
        turn.losses.append(loss.item())
        step += 1
    turn.model, turn.teacher = student, teacher


def measure(options, progress, item: str) -> list[Row]:
    """
    Rows of item a (over a bare loop), of b (FLYP) or c (reference), or of t (TRACER over both): captions that come again, and
    the dearest case.
    """
    common = {"model": options.model, "batch": options.batch}
    carot = {**common, "method": "carot"}
    if item == "a":
        return [_row(options, progress, "a", "a bare loop with whole last layers", carot, bare, common, 0.95)]
    # One batch of captions: each is new once, in the warm-up, and all are different within a batch, whose longest has 14
    # tokens as batches have on average.
    again = {"captions": options.batch}
    remembers = {**carot, **again, "ema_update_every": PUBLISHED_INTERVAL}
    note = "captions that the teacher has seen since it moved"
    new = "the teacher moves in every step, and must encode every caption"
    if item == "t":
        tracer, flyp = {**common, "method": "tracer"}, {**common, "method": "flyp"}
        remembering = {**tracer, **again, "trajectory_update_every": PUBLISHED_INTERVAL}
        return [
            _row(options, progress, "t", "a CaRot step", remembering, ours, remembers, None, note),
            _row(options, progress, "t flyp", "a FLYP step", remembering, ours, {**flyp, **again}, None, note),
            _row(options, progress, "t flyp new", "a FLYP step", tracer, ours, flyp, None, new),
        ]
    if item == "b":
        name, other, limit, settings = "a FLYP step", ours, 1.30, {**common, "method": "flyp"}
        slow, fast = settings, {**settings, **again}
    else:
        name, other, limit, slow = "a reference-style step", reference, 0.58, common
        fast = {**common, **again, "ema_update_every": PUBLISHED_INTERVAL}
    return [
        _row(options, progress, item, name, remembers, other, fast, limit, note),
        _row(options, progress, f"{item} new", name, carot, other, slow, limit, new),
    ]


def _row(options, progress, item, name, measured, function, settings, limit, note="") -> Row:
    label = METHODS[measured["method"]].label
    one = Contender(f"{item}: {label}", ours, measured, options.threads)
    other = Contender(f"{item}: {name}", function, settings, options.threads)
    interleave([one, other], options.rounds, options.warm, progress)
    return Row(
        item,
        f"{label} step over {name}",
        one.median,
        other.median,
        "s",
        median_ratio(one, other),
        limit,
        note,
        {
            "rounds": [list(pair) for pair in zip(one.seconds, other.seconds, strict=True)],
            "peak_bytes": [one.peak, other.peak],
        },
    )
