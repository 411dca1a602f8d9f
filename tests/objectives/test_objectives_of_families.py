# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Each objective on CLIP and on SigLIP, by value and by the gradient of every weight, is a plain computation; and who is refused."""

import copy

import pytest
import torch
from helpers import arguments, random_batch, step_logs
from helpers.families import FAMILY_NAMES, family_batch, family_captions, family_model, family_processor, plain_images
from helpers.runs import trainer_of
from helpers.walking import Walking

from hf_robustft import (
    ContrastiveMixin,
    CovarianceAnchorMixin,
    CovarianceAnchorTrainer,
    SelfDistillationMixin,
    TrajectoryDistillationMixin,
)
from hf_robustft.modeling.dual_encoder import DualEncoder
from hf_robustft.modeling.features import encode
from hf_robustft.training.methods import METHODS
from hf_robustft.training.settings import settle_settings

pytestmark = pytest.mark.numbers
EXACT = {"rtol": 0, "atol": 1e-12}
BOTH = ("clip", "siglip")
#: Families without linear projections.
NONLINEAR = ("siglip", "siglip2")


class All(Walking, CovarianceAnchorMixin, SelfDistillationMixin, TrajectoryDistillationMixin, ContrastiveMixin):
    """All that CaRot, TRACER and the covariance anchor say of features, without a Trainer."""

    def gather_rows(self, rows):
        return rows


def moved(model):
    """The model with other weights, its scale and its bias among them."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def outputs(name, model):
    """What Transformers' own forward pass says of the batch."""
    padding = {"padding": "max_length", "max_length": 64} if name in NONLINEAR else {"padding": True}
    tokens = family_processor(name).tokenizer(family_captions(), truncation=True, return_tensors="pt", **padding)
    return model(**plain_images(name, dtype=torch.float64), return_loss=True, **tokens)


def plain_terms(name, student, teacher, labels):
    """The terms as their papers write them, summed up in the open."""
    n, logits, wanted = len(labels), student.logits_per_image, teacher.logits_per_image.detach()
    together = labels[:, None] == labels[None, :]
    if name == "siglip":
        yes, target = logits.sigmoid(), wanted.sigmoid()
        contrastive = -(yes.where(together, 1 - yes)).log().sum() / n
        crossed = -(target * yes.log() + (1 - target) * (1 - yes).log()).sum() / n
        entropy = -(target * target.log() + (1 - target) * (1 - target).log()).sum() / n
        divergence = crossed - entropy
    else:
        share = together / together.sum(dim=1, keepdim=True)
        sides = [(logits, wanted), (logits.t(), wanted.t())]
        contrastive = -sum((share * one.log_softmax(1)).sum() for one, _ in sides) / n / 2
        crossed = -sum((two.softmax(1) * one.log_softmax(1)).sum() for one, two in sides) / n
        entropy = -sum((two.softmax(1) * two.log_softmax(1)).sum() for _, two in sides) / n
        divergence = (crossed - entropy) / 2
    features = [
        (one - two.detach()).square().mean()
        for one, two in ((student.image_embeds, teacher.image_embeds), (student.text_embeds, teacher.text_embeds))
    ]
    spreads = [torch.cov(one.t(), correction=0) for one in (student.image_embeds, teacher.image_embeds.detach())]
    return {
        "contrastive": contrastive,
        "batch_distillation": divergence,
        "feature_distillation": sum(features),
        "self_distillation": crossed,
        "covariance_anchor": (spreads[0] - spreads[1]).square().sum().sqrt(),
    }


@pytest.mark.parametrize("name", BOTH)
def test_terms_and_their_gradients_are_plain_computations(tmp_path, name):
    model, batch = family_model(name).double(), family_batch(name, dtype=torch.float64)
    args = arguments(tmp_path, contrastive_positives="same_label")
    mixin = All(model, args, 10)
    teacher, mixin.optimizer_steps = copy.deepcopy(model), 1
    moved(model)
    terms = mixin.loss_terms(encode(model, batch), batch)
    want = plain_terms(name, outputs(name, model), outputs(name, teacher), batch["labels"])
    assert terms.keys() == want.keys()
    for term, value in want.items():
        weight = {"self_distillation": "distillation"}.get(term, term)
        value = getattr(args, f"{weight}_weight", 1.0) * value
        torch.testing.assert_close(terms[term], value, rtol=1e-12, atol=1e-12, msg=lambda text, term=term: f"{term}: {text}")
        named = dict(model.named_parameters())
        got, expected = (
            torch.autograd.grad(loss, list(named.values()), retain_graph=True, allow_unused=True) for loss in (terms[term], value)
        )
        for weight, one, two in zip(named, got, expected, strict=True):
            assert (one is None) == (two is None), (term, weight)
            if one is not None:
                torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-11, msg=lambda text, w=weight, t=term: f"{t}, {w}: {text}")
    if name == "siglip":
        for term in ("contrastive", "self_distillation", "batch_distillation"):
            gradient = torch.autograd.grad(terms[term], DualEncoder.of(model).logit_bias, retain_graph=True)[0]
            assert gradient.abs().item() > 1e-6, "the bias trains with each term that reads similarities"


@pytest.mark.parametrize("name", [name for name in FAMILY_NAMES if name != "aimv2"])
def test_the_contrastive_term_is_the_loss_of_transformers(tmp_path, name):
    model, batch = family_model(name).double(), family_batch(name, dtype=torch.float64)
    mixin = All(model, arguments(tmp_path), 10)
    (got,) = mixin.loss_terms(encode(model, batch), batch).values()
    want = outputs(name, model).loss
    torch.testing.assert_close(got, want, **EXACT)
    weights = list(model.parameters())
    gradients = (torch.autograd.grad(loss, weights, allow_unused=True) for loss in (got, want))
    for (weight, _), one, two in zip(model.named_parameters(), *gradients, strict=True):
        assert (one is None) == (two is None), weight
        if one is not None:
            torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-11, msg=weight)


def test_the_teacher_follows_the_bias(tmp_path):
    model = family_model("siglip").double()
    mixin = All(model, arguments(tmp_path, ema_start_momentum=0.75, ema_end_momentum=0.75), 10)
    before = model.logit_bias.detach().clone()
    moved(model)
    mixin.step()
    assert not torch.equal(model.logit_bias, before)
    torch.testing.assert_close(mixin.teacher.logit_bias, 0.75 * before + 0.25 * model.logit_bias, **EXACT)


def test_the_scale_that_is_logged_is_the_one_that_aimv2_computes_with(tmp_path):
    model = family_model("aimv2")
    model.logit_scale.data.fill_(9.0)
    options = {"processor": family_processor("aimv2"), "save_strategy": "no", "max_steps": 1, "bound_logit_scale": False}
    trainer = trainer_of(METHODS["flyp"], model, tmp_path, **options)
    trainer.train()
    assert trainer.model.logit_scale.item() > 5 and step_logs(trainer)[0]["logit_scale"] == pytest.approx(100, rel=1e-6)


# ---- Heads and what stands beside them ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["car_ft", "lipsum_ft", "clip_adapter"])
def test_a_bias_that_all_classes_have_in_common_changes_nothing(tmp_path, method):
    """A softmax over classes or contexts does not see it, nor does a change of logits: SigLIP has these objectives as CLIP has."""
    runs = []
    for bias in (-1.5, 4.0):
        model = family_model("siglip")
        model.logit_bias.data.fill_(bias)
        options = {"processor": family_processor("siglip"), "save_strategy": "no", "max_steps": 3, "learning_rate": 1e-3}
        trainer = trainer_of(METHODS[method], model, tmp_path, **options)
        trainer.train()
        assert trainer.model.logit_bias.item() == bias and not trainer.model.logit_bias.requires_grad
        runs.append([{key: value for key, value in log.items() if key != "logit_bias"} for log in step_logs(trainer)])
    assert runs[0] == runs[1] and all(log["grad_norm"] > 0 for log in runs[0])


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_random_texts_are_framed_as_the_familys_own(tmp_path, name):
    tokenizer, model = family_processor(name).tokenizer, family_model(name)
    options = {"processor": family_processor(name), "random_text_length": 5, "random_texts": 40}
    trainer = trainer_of(METHODS["lipsum_ft"], model, tmp_path, **options)
    texts, empty = trainer.extra_texts().tolist(), tokenizer("")["input_ids"]
    assert {len(text) for text in texts} == {5 + len(empty)}
    for text in texts:
        assert text[: len(empty) - 1] == empty[:-1] and text[-1] == empty[-1]
        assert not {*tokenizer.all_special_ids, DualEncoder.of(model).caption_rules.padding} & {*text[len(empty) - 1 : -1]}
    longest = DualEncoder.of(model).caption_rules.max_length - len(empty)
    with pytest.raises(ValueError, match=f"`random_text_length={longest + 1}`.*set it to {longest} or less"):
        trainer_of(METHODS["lipsum_ft"], model, tmp_path, **{**options, "random_text_length": longest + 1})


# ---- Refusals --------------------------------------------------------------------------------------------------------


def checked(name, method, **settings):
    """What a Trainer looks at before it is made, without one."""
    args = arguments("unused", **settings)
    settle_settings(METHODS[method], args, DualEncoder.of(family_model(name)))
    return args


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_who_serves_whom(name):
    refused = set()
    for method in METHODS:
        try:
            args = checked(name, method)
        except ValueError as error:
            refused.add(method)
            assert "\n" not in str(error) and DualEncoder.of(family_model(name)).name in str(error)
            assert "--method covariance_anchor" in str(error)
            continue
        if method == "tracer":
            assert args.cross_frobenius_weight == (0.0 if name in NONLINEAR else 0.05)
            assert ("cross_frobenius_weight" in args.origins) == (name in NONLINEAR)
    assert refused == ({"carot", "carot+croft"} if name in NONLINEAR else set())


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("tracer", {"cross_frobenius_weight": 0.05}, "`cross_frobenius_weight=0.05` .*--method covariance_anchor.*set it to 0"),
        ("carot", {"orthogonality_weight": 0.0, "cross_frobenius_weight": 0.1}, "`cross_frobenius_weight=0.1`.*set it to 0"),
        ("flyp", {"contrastive_label_smoothing": 0.1}, "`contrastive_label_smoothing=0.1` .*set it to 0"),
        ("covariance_anchor", {"contrastive_label_smoothing": 0.1}, "`contrastive_label_smoothing=0.1` .*set it to 0"),
    ],
)
def test_what_would_mean_nothing_is_refused_in_one_line(method, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        checked("siglip", method, **settings)
    assert "\n" not in str(caught.value)
    # Without the constraint CaRot is contrastive loss and self-distillation, which SigLIP has.
    checked("siglip", "carot", orthogonality_weight=0.0)


def test_one_pair_is_refused_for_siglip_too(tmp_path):
    args = arguments(tmp_path, per_device_train_batch_size=1)
    with pytest.raises(ValueError, match="per_device_train_batch_size=1.*one pair"):
        CovarianceAnchorTrainer(family_model("siglip"), args, train_dataset=[])


def test_batches_of_families_differ_from_each_other():
    """A batch in which captions were one would show nothing."""
    for name in FAMILY_NAMES:
        ids = family_batch(name)["input_ids"]
        assert len({tuple(row.tolist()) for row in ids}) == len(ids) == len(random_batch()["labels"])
