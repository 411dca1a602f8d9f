# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The distillation loss, the momentum schedule, and the teacher: where it lives, when and how far it moves."""

import copy

import pytest
import torch
from helpers import arguments, assert_golden, random_batch, rows, stack, step_logs, tolerance
from helpers.walking import Walking
from torch import nn

from hf_robustft import CaRotTrainer, SelfDistillationMixin
from hf_robustft.modeling.features import ClipFeatures, encode
from hf_robustft.objectives import teacher as teacher_module
from hf_robustft.objectives.contrastive import contrastive_loss
from hf_robustft.objectives.self_distillation import self_distillation_loss
from hf_robustft.objectives.teacher import ema_momentum, update_teacher

pytestmark = pytest.mark.numbers


class Alone(Walking, SelfDistillationMixin):
    """The mixin without a Trainer."""


def logits(data, case, who, dtype):
    image, text = (data[f"{case}/{who}_{kind}"].to(dtype, copy=True).requires_grad_() for kind in ("image", "text"))
    log_scale = data[f"{case}/{who}_log_scale"].to(dtype, copy=True).requires_grad_()
    return (image, text, log_scale), ClipFeatures(image, text, log_scale.exp())


@pytest.mark.parametrize("tag", ["f64", "f32"])
@pytest.mark.parametrize("case", ["c0", "c1"])
def test_golden_loss(golden, case, tag):
    data, manifest = golden("c_distill"), golden.manifest("c_distill")
    limits, dtype = tolerance(manifest["tolerance"][tag]), torch.float64 if tag == "f64" else torch.float32
    for total in (False, True):
        inputs, student = logits(data, case, "student", dtype)
        teacher_inputs, teacher = logits(data, case, "teacher", dtype)
        loss = self_distillation_loss(student.logits_per_image, teacher.logits_per_image)
        if total:
            contrastive = contrastive_loss(student.image_embeds, student.text_embeds, student.logit_scale)
            assert_golden(contrastive, data[f"{case}/contrastive_{tag}"], limits, "contrastive")
            loss = contrastive + manifest["cases"][case]["distil_coef"] * loss
        loss.backward()
        name = "total" if total else "dist"
        assert_golden(loss, data[f"{case}/{name}_{tag}"], limits, name)
        for kind, tensor in zip(("image", "text", "log_scale"), inputs, strict=True):
            assert_golden(tensor.grad, data[f"{case}/{name}_grad_{kind}_{tag}"], limits, f"{name} gradient {kind}")
        assert all(tensor.grad is None for tensor in teacher_inputs), "no gradient may reach the teacher"


@pytest.mark.parametrize("case", ["s0", "s1", "s2", "s3", "s4", "s5", "s6"])
def test_golden_teacher(golden, tmp_path, case):
    data, manifest = golden("d_ema"), golden.manifest("d_ema")
    facts = manifest["cases"][case]
    args = arguments(
        tmp_path,
        ema_update_every=facts["update_every"],
        ema_warmup_ratio=facts["warmup_ratio"],
        ema_start_momentum=facts["m_src"],
        ema_end_momentum=facts["m_tar"],
    )
    model = nn.Linear(6, 1, bias=False, dtype=torch.float64)
    scripted = f"{case}/student" in data
    if scripted:
        model.weight.data[0] = data[f"{case}/theta0"]
    mixin, limits = Alone(model, args, facts["total_steps"]), tolerance(manifest["tolerance"]["teacher"])
    momentum_limit, momentum, moved = tolerance(manifest["tolerance"]["momentum"]), [], 0
    for step in range(facts["total_steps"]):
        if scripted:
            model.weight.data[0] = data[f"{case}/student"][step]
        mixin.step()
        momentum.append(mixin.last_momentum if mixin.teacher_updates > moved else -1.0)
        moved = mixin.teacher_updates
        if scripted:
            assert_golden(mixin.teacher.weight[0], data[f"{case}/teacher"][step], limits, f"teacher {step}")
    want = data[f"{case}/momentum"]
    assert_golden(torch.tensor(momentum, dtype=torch.float64), want, momentum_limit, "momentum")
    assert moved == (want >= 0).sum()


def test_golden_schedule_of_the_paper_from_a_fraction(golden, tmp_path):
    want = golden("d_ema")["s5/momentum"]
    mixin = Alone(nn.Linear(1, 1), arguments(tmp_path, ema_update_every=0.02), 25030)
    updates = [step for step in range(25030) if want[step] >= 0]
    assert list(mixin._update_steps(25030)) == updates
    assert len(updates) == 51
    for step in updates:
        assert ema_momentum(step, 25030, 0.05, 0.9, 0.2) == pytest.approx(want[step].item(), abs=1e-12)


def test_momentum_by_hand():
    ramp = [ema_momentum(step, 10, 0.2, 0.8, 0.4) for step in range(10)]
    assert ramp == pytest.approx([0.2, 0.35, 0.5, 0.65, *[0.8] * 6])
    assert ema_momentum(0, 10, 0.2, 0.8, 0.0) == 0.8


def test_update_is_the_average_of_parameters_but_not_of_buffers():
    teacher, student = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    nn.init.constant_(teacher.weight, 1.0)
    nn.init.constant_(student.weight, 5.0)
    student.running_mean += 3.0
    update_teacher(teacher, student, 0.75)
    assert teacher.weight.tolist() == [2.0, 2.0]
    assert teacher.running_mean.tolist() == [0.0, 0.0]
    assert student.weight.tolist() == [5.0, 5.0]
    update_teacher(teacher, student, 1.0)
    assert teacher.weight.tolist() == [2.0, 2.0]
    update_teacher(teacher, student, 0.0)
    assert teacher.weight.tolist() == [5.0, 5.0]


def test_without_the_switch_the_first_update_comes_after_a_whole_interval(tmp_path):
    for from_first_step, updates in ((True, [0, 3, 6, 9]), (False, [2, 5, 8])):
        args = arguments(tmp_path, ema_update_every=3, ema_from_first_step=from_first_step)
        mixin, seen = Alone(nn.Linear(1, 1), args, 10), []
        for step in range(10):
            before = mixin.teacher_updates
            mixin.step()
            seen += [step] * (mixin.teacher_updates - before)
        assert seen == updates


def test_loss_by_hand():
    # Teacher rows (3/4, 1/4) and (1/2, 1/2) by images; student uniform: each of the four cross-entropies is log 2.
    teacher = torch.tensor([[3.0, 1.0], [1.0, 1.0]], dtype=torch.float64).log()
    uniform = torch.zeros(2, 2, dtype=torch.float64)
    assert self_distillation_loss(uniform, teacher).item() == pytest.approx(2 * torch.tensor(2.0).log().item())
    # Against itself it is the teacher's entropy, in both directions (columns of exp(teacher): (3, 1) and (1, 1)).
    entropy = -(0.75 * torch.tensor(0.75).log() + 0.25 * torch.tensor(0.25).log()).item()
    whole = 2 * (entropy + torch.tensor(2.0).log().item()) / 2
    assert self_distillation_loss(teacher, teacher).item() == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize("gap", [200.0, 1e4, 1e30])
def test_huge_gaps_stay_finite(gap):
    student = torch.tensor([[gap, 0.0], [0.0, gap]], requires_grad=True)
    teacher = torch.tensor([[0.0, gap], [gap, 0.0]])
    assert torch.isinf(student.softmax(1).log()).any(), "the logarithm of a softmax must overflow here"
    loss = self_distillation_loss(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(2 * gap)
    assert torch.isfinite(student.grad).all()
    assert self_distillation_loss(student, student.detach()).item() == pytest.approx(0.0)


def test_parts_of_the_batch_average_to_the_whole():
    student, teacher = torch.randn(2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 5
    whole = self_distillation_loss(student, teacher)
    parts = [
        self_distillation_loss(student[p], teacher[p], student.t()[p], teacher.t()[p])
        for p in (slice(0, 4), slice(4, 8))
    ]
    torch.testing.assert_close(sum(parts) / 2, whole, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="4 rows of 8 columns.*student_logits_per_text"):
        self_distillation_loss(student[:4], teacher[:4])
    with pytest.raises(ValueError, match="same pairs"):
        self_distillation_loss(student, teacher[:4])


def test_teacher_is_a_frozen_deep_copy_that_scores_as_the_student_did(tiny_clip, tmp_path):
    batch = random_batch()
    mixin = Alone(tiny_clip, arguments(tmp_path), 10)
    teacher = mixin.teacher
    start = copy.deepcopy(tiny_clip.state_dict())
    assert all(not p.requires_grad for p in teacher.parameters()) and all(
        p.requires_grad for p in tiny_clip.parameters()
    )
    with torch.no_grad():
        for parameter in tiny_clip.parameters():
            parameter.add_(0.1)
    assert all(torch.equal(value, start[name]) for name, value in teacher.state_dict().items())
    assert mixin.loss_terms(encode(tiny_clip, batch), batch) == {}, "no distillation before the first step"
    mixin.optimizer_steps = 1
    term = mixin.loss_terms(encode(tiny_clip, batch), batch)["self_distillation"]
    student = encode(tiny_clip, batch).logits_per_image
    expected = 1.5 * self_distillation_loss(student, encode(teacher, batch).logits_per_image)
    torch.testing.assert_close(term, expected)
    term.backward()
    assert all(p.grad is None for p in teacher.parameters())


def test_weight_zero_makes_no_teacher(tiny_clip, tmp_path):
    mixin = Alone(tiny_clip, arguments(tmp_path, distillation_weight=0.0), 10)
    mixin.step()
    assert mixin.teacher is None and mixin.loss_terms(None, {}) == {} and mixin.extra_state() == {}
    assert mixin.log_values() == {}
    args = arguments(tmp_path, distillation_weight=0.0, export_weights="teacher")
    with pytest.raises(ValueError, match="export_weights='teacher'.*distillation_weight=0"):
        mixin.validate_arguments(args)


@pytest.mark.same_bits("the same batch twice")
def test_in_a_run_the_teacher_stays_apart(tiny_clip, tmp_path):
    for module in tiny_clip.modules():
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.5
    tiny_clip.train()
    names = set(tiny_clip.state_dict())
    trainer = CaRotTrainer(
        tiny_clip, arguments(tmp_path, max_steps=3), train_dataset=rows(random_batch(24)), data_collator=stack
    )
    assert trainer.teacher is None
    trainer.train()
    teacher = trainer.teacher
    trainer.model.train()
    assert trainer.model.text_model.training and not any(module.training for module in teacher.modules())
    with torch.no_grad():
        assert torch.equal(encode(teacher, random_batch()).text_embeds, encode(teacher, random_batch()).text_embeds), (
            "dropout must be off in the teacher"
        )
    assert set(trainer.model.state_dict()) == names
    assert not any(module is teacher for module in trainer.model.modules())
    own = {id(p) for p in trainer.model.parameters()}
    optimized = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert not any(id(p) in own | optimized or p.requires_grad for p in teacher.parameters())
    storages = {p.data_ptr() for p in trainer.model.parameters()}
    assert not any(p.data_ptr() in storages for p in teacher.parameters())
    assert [log["teacher/updates"] for log in step_logs(trainer)] == [1, 2, 3]
    assert [("loss/self_distillation" in log) for log in step_logs(trainer)] == [False, True, True]


# Captions that the teacher remembers while it stands still


def with_repeated_captions(n=24, kinds=5, dtype=torch.float64):
    batch = random_batch(n, dtype=dtype)
    return {**batch, "input_ids": batch["input_ids"][torch.arange(n) * 7 % n % kinds]}


def texts_seen(model):
    """How many texts the text tower gets to see, call by call."""
    seen = []
    model.text_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    return seen


def plain_term(mixin, batch):
    with torch.no_grad():
        student, teacher = (
            model(pixel_values=batch["pixel_values"], input_ids=batch["input_ids"]).logits_per_image
            for model in (mixin.model, mixin.teacher)
        )
    return 1.5 * self_distillation_loss(student, teacher)


def test_the_teacher_encodes_a_caption_once_until_it_moves(tiny_clip, tmp_path):
    model, batch = tiny_clip.double(), with_repeated_captions()
    mixin = Alone(model, arguments(tmp_path, ema_update_every=4), 20)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    seen = texts_seen(mixin.teacher)
    halves = [{name: value[part] for name, value in batch.items()} for part in (slice(0, 8), slice(8, 24))]
    halves[1]["input_ids"] = torch.nn.functional.pad(halves[1]["input_ids"], (0, 3))

    def term_of(half):
        before = len(seen)
        term = mixin.loss_terms(encode(model, half), half)["self_distillation"]
        new = seen[before:]
        torch.testing.assert_close(term, plain_term(mixin, half), rtol=1e-12, atol=0)
        return new

    mixin.step()  # the first update
    distinct = [len({tuple(row.tolist()) for row in half["input_ids"]}) for half in halves]
    assert distinct == [5, 5]
    few = {name: value[:2] for name, value in halves[0].items()}
    assert term_of(few) == [2]
    assert term_of(halves[0]) == [3], "two are known"
    assert term_of(halves[1]) == [], "other images, other padding, the same captions"
    mixin.step(), mixin.step(), mixin.step()
    assert mixin.teacher_updates == 1 and term_of(halves[0]) == []
    mixin.step()
    assert mixin.teacher_updates == 2 and term_of(halves[1]) == [5], "the teacher has moved"
    state = mixin.extra_state()
    assert term_of(halves[1]) == [5], "a run that is resumed from this checkpoint remembers nothing"
    with torch.no_grad():
        state["teacher.text_projection.weight"] = state["teacher.text_projection.weight"] * torch.linspace(1, 2, 32)
    mixin.load_extra_state(state)
    assert term_of(halves[1]) == [5], "another teacher"
    mixin.prepare_training(20)
    seen = texts_seen(mixin.teacher)
    assert term_of(halves[1]) == [5]


def test_what_the_teacher_remembers_is_bounded(tiny_clip, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_module, "REMEMBERED_CAPTIONS", 3)
    model, batch = tiny_clip.double(), with_repeated_captions()
    mixin = Alone(model, arguments(tmp_path), 20)
    mixin.optimizer_steps = 1
    seen = texts_seen(mixin.teacher)
    for _ in range(3):
        term = mixin.loss_terms(encode(model, batch), batch)["self_distillation"]
    assert seen == [5, 2, 2] and len(mixin._teacher_captions) == 3
    torch.testing.assert_close(term, plain_term(mixin, batch), rtol=1e-12, atol=0)


def test_a_wrapped_teacher_remembers_nothing(tiny_clip, tmp_path):
    # Of a sharded teacher every process must run each forward call.
    batch = with_repeated_captions(dtype=torch.float32)
    mixin = Alone(tiny_clip, arguments(tmp_path), 20)
    mixin.optimizer_steps = 1
    seen, teacher = texts_seen(mixin.teacher), mixin.teacher
    teacher.register_forward_pre_hook(lambda module, args: None)
    for _ in range(2):
        mixin.loss_terms(encode(tiny_clip, batch), batch)
    assert seen == [5, 5] and len(mixin._teacher_captions) == 0


def carot_run(model, folder, steps, **settings):
    settings = {"ema_update_every": 4, "logging_steps": 1, "max_steps": steps, **settings}
    settings["train_sampling_strategy"] = "sequential"
    return CaRotTrainer(
        copy.deepcopy(model),
        arguments(folder, **settings),
        train_dataset=rows(with_repeated_captions(40, kinds=9)),
        data_collator=stack,
    )


def assert_close_runs(got, want, limit):
    for who in ("model", "teacher"):
        for name, value in getattr(want, who).state_dict().items():
            torch.testing.assert_close(getattr(got, who).state_dict()[name], value, rtol=0, atol=limit, msg=name)


def test_a_run_with_memory_is_the_run_without(tiny_clip, tmp_path, monkeypatch):
    model = tiny_clip.double()
    seen, runs = [], []
    for capacity in (teacher_module.REMEMBERED_CAPTIONS, 0):
        monkeypatch.setattr(teacher_module, "REMEMBERED_CAPTIONS", capacity)
        run = carot_run(model, tmp_path / str(capacity), 9)
        prepare = run.prepare_training

        def spied(total_steps, run=run, prepare=prepare):
            prepare(total_steps)
            seen.append(texts_seen(run.teacher))

        run.prepare_training = spied
        run.train()
        runs.append(run)
    assert len(seen[0]) < len(seen[1]) == 8 and sum(seen[0]) < sum(seen[1])
    # AdamW divides by the root of a key bias's squared gradient, which is rounding noise: those may differ more.
    for trainer in runs:
        for who in (trainer.model, trainer.teacher):
            for name, parameter in who.named_parameters():
                if name.endswith("k_proj.bias"):
                    parameter.data.zero_()
    assert_close_runs(*runs, limit=1e-9)
    for log, other in zip(*(step_logs(trainer) for trainer in runs), strict=True):
        assert log["loss"] == pytest.approx(other["loss"], rel=1e-10)


@pytest.mark.same_bits("resumed from what was saved; the same batches in the same order")
def test_resumed_while_captions_are_remembered_repeats_every_bit(tiny_clip, tmp_path):
    # Batches of five share captions, so that what is remembered comes from batches other than a fresh encoding would.
    settings = {"save_strategy": "steps", "save_steps": 3, "per_device_train_batch_size": 5, "ema_update_every": 100}
    model = tiny_clip.float()
    with pytest.warns(UserWarning, match="teacher will be updated only"):
        whole = carot_run(model, tmp_path, 9, **settings)
        whole.train()
        resumed = carot_run(model, tmp_path / "again", 9, **settings)
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert_close_runs(resumed, whole, limit=0)
    for log, other in zip(step_logs(resumed), step_logs(whole), strict=True):
        assert {k: v for k, v in log.items() if k.startswith("loss")} == {
            k: v for k, v in other.items() if k.startswith("loss")
        }


def test_a_teacher_that_hardly_moves_is_warned_of(tiny_clip, tmp_path):
    with pytest.warns(UserWarning, match="only 1 times in 20 steps.*ema_update_every=500"):
        Alone(tiny_clip, arguments(tmp_path, ema_update_every=500), 20)


@pytest.mark.parametrize("every", [0, 0.02, 4])
def test_no_warning_where_the_teacher_moves_or_is_meant_to_stay(tiny_clip, tmp_path, every, recwarn):
    Alone(tiny_clip, arguments(tmp_path, ema_update_every=every), 20)
    assert not [w for w in recwarn if "teacher will be updated" in str(w.message)]


def test_export_of_either(tiny_clip, tmp_path):
    mixin = Alone(tiny_clip, arguments(tmp_path), 10)
    with mixin.exported_weights() as model:
        assert model is tiny_clip
    mixin.args.export_weights = "teacher"
    with mixin.exported_weights() as model:
        assert model is mixin.teacher
    trainer = carot_run(tiny_clip, tmp_path, 2, export_weights="teacher")
    with pytest.raises(ValueError, match="no teacher to export before training"):
        trainer.save_model()
