# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Classes whose prompts are the same tokens are refused wherever they are measured or trained on."""

import unicodedata
import warnings

import pytest
from helpers import CLASSES, TEMPLATES, arguments, image_dataset, tiny_processor

from hf_robustft import Benchmark, FineTuneTrainer, FLYPTrainer, ZeroShotHead, load_checkpoint
from hf_robustft.data.benchmarks import load_benchmark
from hf_robustft.modeling.captions import check_class_prompts
from hf_robustft.modeling.dual_encoder import CaptionRules, DualEncoder

LONG = "a cat of the long long kind"


@pytest.mark.parametrize(
    ("names", "templates", "named"),
    [
        (("cat", "7", "dog", "8"), TEMPLATES, ["'7' and '8'", "rename"]),
        (("\u732b", "\u72ac"), TEMPLATES, ["'\u732b' and '\u72ac'"]),
        ((LONG + " a", LONG + " b", "dog"), TEMPLATES, ["16 tokens", "shorten"]),
        (("cat", "dog"), ("this is a very very long sentence of {}.",), ["'cat' and 'dog'", "16 tokens"]),
    ],
)
def test_equal_tokens_are_refused_with_the_names(tiny_clip, tmp_path, names, templates, named):
    data = Benchmark.from_dataset(
        image_dataset(12, classes=names), name="train", role="train", class_names=names, templates=templates
    )

    def train(trainer):
        # A linear head starts from the prompts, too.
        options = {"train_dataset": data, "processing_class": tiny_processor()}
        trainer(tiny_clip, arguments(tmp_path, max_steps=1), **options).train()

    for consumer in (
        lambda: check_class_prompts(tiny_processor(), names, templates, CaptionRules(63)),
        lambda: ZeroShotHead.from_model(tiny_clip, tiny_processor(), names, templates),
        lambda: train(FLYPTrainer),
        lambda: train(FineTuneTrainer),
    ):
        with pytest.raises(ValueError) as error:
            consumer()
        assert "\n" not in str(error.value) and all(part in str(error.value) for part in named), str(error.value)


def test_names_that_differ_in_unicode_form_alone_are_refused(tiny_clip):
    names = [unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD")]
    with pytest.raises(ValueError, match="caf"):
        ZeroShotHead.from_model(tiny_clip, tiny_processor(), names, TEMPLATES)


def test_one_template_that_tells_them_apart_is_enough(tiny_clip):
    names, templates = ("long cat a", "long cat b"), ("a {}", "this is a long sentence of the {}")
    with pytest.warns(UserWarning, match="2 of 2 prompts.*'long cat a'"):
        ZeroShotHead.from_model(tiny_clip, tiny_processor(), names, templates)


def test_names_that_are_cut_are_named(tiny_clip):
    with pytest.warns(UserWarning, match=f"1 of 3 prompts.*{LONG}"):
        ZeroShotHead.from_model(tiny_clip, tiny_processor(), ("cat", "dog", LONG), ("a {}.",))


def test_usual_classes_pass_unsaid(tiny_clip):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ZeroShotHead.from_model(tiny_clip, tiny_processor(), CLASSES, TEMPLATES)


def test_the_classes_and_templates_of_the_package_are_told_apart():
    model, processor = load_checkpoint("emoji_clip")
    rules = DualEncoder.of(model).caption_rules
    for benchmark in load_benchmark("emoji_shift").values():
        if benchmark.class_names:
            check_class_prompts(processor, benchmark.class_names, benchmark.templates, rules)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tiny_clip):
    processor = tiny_processor()
    ZeroShotHead.from_model(tiny_clip, processor, CLASSES, TEMPLATES)
    processor.tokenizer.add_tokens(["cat"])
    with pytest.raises(ValueError, match="tokenizer has 65 tokens, and the model knows 64"):
        ZeroShotHead.from_model(tiny_clip, processor, CLASSES, TEMPLATES)
