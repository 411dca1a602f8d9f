# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A checkpoint is resumed by the run that wrote it, or refused by the name of what differs."""

import copy
import json
import re

import datasets
import pytest
from helpers import CLASSES, TEMPLATES, arguments, image_dataset, tiny_processor
from transformers import CLIPTokenizer, tokenization_utils_base

from hf_robustft import Benchmark, CRoFTTrainer, FLYPTrainer, cache_features, load_benchmark
from hf_robustft.training.checkpoint_files import VALUES, load_state
from hf_robustft.training.methods import METHODS, RobustTrainingArguments
from hf_robustft.training.model_record import processor_record
from hf_robustft.training.run_record import check_same_run

DATA = image_dataset(24)


def benchmark(data=DATA, **options):
    return Benchmark.from_dataset(data, name="tiny", role="train", **{"templates": TEMPLATES, **options})


def trainer_of(model, folder, *, cls=FLYPTrainer, data=None, processor=None, **settings):
    # Values that a record of other numbers can differ from; none of them is a default.
    base = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 4}
    return cls(
        copy.deepcopy(model),
        arguments(folder, **{**base, **settings}),
        train_dataset=benchmark() if data is None else data,
        processing_class=processor or tiny_processor(),
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint of two steps of FLYP."""
    import torch
    from helpers import tiny_config
    from transformers import CLIPModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(tiny_config()).eval()
    folder = tmp_path_factory.mktemp("run")
    trainer_of(model, folder).train()
    return folder / "checkpoint-2"


OTHER_RUN = {
    "per_device_train_batch_size": 6,
    "gradient_accumulation_steps": 2,
    "seed": 8,
    "data_seed": 9,
    "train_sampling_strategy": "sequential",
    "train_crop": "croft",
    "cache_images": "uint8",
    "learning_rate": 2e-3,
    "lr_schedule": "reference",
    "lr_scheduler_type": "linear",
    "warmup_steps": 1,
    "optim": "sgd",
    "weight_decay": 0.2,
    "adam_beta1": 0.8,
    "adam_beta2": 0.9,
    "adam_epsilon": 1e-6,
    "max_grad_norm": 0.5,
    "decay_all_parameters": True,
    "bound_logit_scale": False,
    "contrastive_positives": "same_label",
    "contrastive_label_smoothing": 0.1,
    "bf16": True,
}
NAMED = {"data_seed": "seed", "bf16": "precision"}


@pytest.mark.parametrize("name", OTHER_RUN)
def test_a_setting_that_makes_another_run_is_refused_with_both_values(tiny_clip, tmp_path, checkpoint, name):
    trainer = trainer_of(tiny_clip, tmp_path, **{name: OTHER_RUN[name]})
    with pytest.raises(ValueError, match=NAMED.get(name, name)) as caught:
        trainer.train(resume_from_checkpoint=str(checkpoint))
    message = str(caught.value)
    assert "\n" not in message and "was written with" in message and "resume with the same settings" in message
    if name not in NAMED:
        assert f"this run has `{name}={OTHER_RUN[name]!r}`" in message
    assert trainer.state.global_step == 0


def test_the_seed_is_compared_beside_that_of_the_order(tiny_clip, tmp_path):
    # With a `data_seed` it says which random texts, and which class prompts, are drawn.
    trainer_of(tiny_clip, tmp_path, seed=1, data_seed=2).train()
    folder = tmp_path / "checkpoint-2"
    trainer_of(tiny_clip, tmp_path, seed=1, data_seed=2).check_checkpoint(folder)
    for other in ({"seed": 3, "data_seed": 2}, {"seed": 2}):
        with pytest.raises(ValueError, match="`data_seed` a `seed` of 1, this run has.*a `seed` of"):
            trainer_of(tiny_clip, tmp_path, **other).check_checkpoint(folder)
    with pytest.raises(ValueError, match="`seed=2`, this run has `seed=3`;"):
        trainer_of(tiny_clip, tmp_path, seed=3).check_checkpoint(folder)


def test_the_record_of_a_tokenizer_with_few_positions_warns_of_nothing(monkeypatch):
    said, processor = [], tiny_processor()
    monkeypatch.setattr(tokenization_utils_base.logger, "warning", said.append)
    processor.tokenizer.model_max_length = 4
    assert processor_record(processor)["tokenizer"] and not said
    processor.tokenizer("a photo of a cat and a dog and more")
    assert len(said) == 1


def test_smoothing_of_a_heads_labels_is_compared(tiny_clip, tmp_path):
    trainer_of(tiny_clip, tmp_path, cls=METHODS["ft"], label_smoothing_factor=0.1).train()
    with pytest.raises(ValueError, match="`label_smoothing_factor=0.1`, this run has `label_smoothing_factor=0.0`"):
        trainer_of(tiny_clip, tmp_path, cls=METHODS["ft"]).check_checkpoint(tmp_path / "checkpoint-2")


def test_what_may_differ(tiny_clip, tmp_path, checkpoint):
    settings = {"logging_steps": 2, "save_steps": 1, "save_total_limit": 1, "disable_tqdm": True, "run_name": "x"}
    settings |= {"dataloader_num_workers": 1, "per_device_eval_batch_size": 3, "contrastive_chunk_size": 2}
    trainer = trainer_of(tiny_clip, tmp_path, **settings)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert trainer.state.global_step == 4


def test_other_data_are_refused(tiny_clip, tmp_path, checkpoint):
    def message(data):
        with pytest.raises(ValueError) as caught:
            trainer_of(tiny_clip, tmp_path, data=data).train(resume_from_checkpoint=str(checkpoint))
        return str(caught.value)

    turned = (*CLASSES[1:], CLASSES[0])
    renamed = benchmark(class_names=("fish", *CLASSES[1:]), label_names=CLASSES)
    assert "classes (cat, dog, owl, bee)" in message(renamed)
    assert "classes" in message(benchmark(image_dataset(24, classes=turned)))
    assert "the templates" in message(benchmark(templates=TEMPLATES[:2]))
    assert "the training set examples 24" in message(benchmark(DATA.select(range(20))))
    assert "the training set" in message(benchmark(image_dataset(24, seed=3))), "other images, same labels"
    assert "the training set" in message(benchmark(DATA.select(reversed(range(24))))), "the same in another order"


def _activation(model, processor):
    model.config.vision_config.hidden_act = "gelu"


def _mean(model, processor):
    processor.image_processor.image_mean = [0.2, 0.5, 0.5]


def _filter(model, processor):
    processor.image_processor.resample = 0


def _vocabulary(model, processor):
    vocab = processor.tokenizer.get_vocab()
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    processor.tokenizer = CLIPTokenizer(vocab=vocab, merges=[], model_max_length=16)


@pytest.mark.parametrize(
    "change, words",
    [
        (_activation, "a model with vision_config.hidden_act quick_gelu, this run has a model with vision_config.hidden_act gelu"),
        (_mean, "a processor with image mean"),
        (_filter, "a processor with image resample bicubic, this run has a processor with image resample nearest"),
        (_vocabulary, "a processor with tokenizer"),
    ],
)
def test_a_model_of_one_shape_that_reads_otherwise_is_refused(tiny_clip, tmp_path, checkpoint, change, words):
    model, processor = copy.deepcopy(tiny_clip), tiny_processor()
    change(model, processor)
    with pytest.raises(ValueError, match=words) as caught:
        trainer_of(model, tmp_path, processor=processor).train(resume_from_checkpoint=str(checkpoint))
    assert "\n" not in str(caught.value)


def test_weights_that_the_run_did_not_begin_with_are_refused_where_they_are_measured(tiny_clip, tmp_path):
    first = trainer_of(tiny_clip, tmp_path)
    first.began_with = "these"
    first.train()
    written = str(tmp_path / "checkpoint-2")
    for began in ("these", None):
        again = trainer_of(tiny_clip, tmp_path)
        again.began_with = began
        again.train(resume_from_checkpoint=written)
        assert again.began_with == "these" and load_state(again.args.output_dir + "/checkpoint-4")["began_with"] == "these"
    other = trainer_of(tiny_clip, tmp_path)
    other.began_with = "others"
    with pytest.raises(ValueError, match="began with other weights than those of --model"):
        other.checkpoint_to_resume(written)


def test_a_checkpoint_that_says_nothing_of_model_and_processor_is_resumed(tiny_clip, tmp_path, checkpoint):
    saved = json.loads((checkpoint / VALUES).read_text())["values"]["run"]
    known = {name: value for name, value in saved.items() if name not in ("model", "processor")}
    assert len(known) == len(saved) - 2
    check_same_run(known, trainer_of(tiny_clip, tmp_path), 4)


def test_one_other_image_among_many_is_refused(tiny_clip, tmp_path):
    data, other = image_dataset(40), image_dataset(40, seed=3)
    odd = datasets.concatenate_datasets([data.select(range(7)), other.select([7]), data.select(range(8, 40))])
    trainer_of(tiny_clip, tmp_path, data=benchmark(data)).train()
    with pytest.raises(ValueError, match="the training set"):
        trainer_of(tiny_clip, tmp_path, data=benchmark(odd)).check_checkpoint(tmp_path / "checkpoint-2")


def test_other_data_of_a_stream_are_refused(tiny_clip, tmp_path):
    def stream(name, data):
        (tmp_path / name).mkdir(exist_ok=True)
        data.to_parquet(tmp_path / name / "train-00000-of-00001.parquet")
        return load_benchmark(str(tmp_path / name), role="train", streaming=True, templates=list(TEMPLATES))

    def classes(*names):
        feature = datasets.ClassLabel(names=list(names))
        return DATA.cast(datasets.Features({"image": datasets.Image(), "label": feature}))

    trainer_of(tiny_clip, tmp_path, data=stream("same", DATA)).train()

    def check(name, data):
        trainer_of(tiny_clip, tmp_path, data=stream(name, data)).check_checkpoint(tmp_path / "checkpoint-2")

    check("same", DATA)
    other = image_dataset(24, seed=3)
    wrong = {
        "renamed": (classes("cat", "dog", "owl", "wasp"), "4 classes"),
        "turned": (classes(*CLASSES[1:], CLASSES[0]), "4 classes"),
        "images": (other, "the training set"),
        "one": (datasets.concatenate_datasets([DATA.select([0]), other.select([1]), DATA.select(range(2, 24))]), "the training set"),
        "more": (datasets.concatenate_datasets([DATA, other.select([0])]), "the training set examples 24"),
    }  # fmt: skip
    for name, (data, words) in wrong.items():
        with pytest.raises(ValueError, match=words) as caught:
            check(name, data)
        assert "\n" not in str(caught.value)


def test_cached_features_are_compared(tiny_clip, tmp_path):
    def trained(views, seed, resume=None):
        data = cache_features(tiny_clip, benchmark(), tiny_processor(), views=views, seed=seed)
        trainer = trainer_of(tiny_clip, tmp_path / str(seed), cls=CRoFTTrainer, data=data)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    trained(1, 1)
    written = str(tmp_path / "1" / "checkpoint-2")
    assert trained(1, 1, written).state.global_step == 4
    with pytest.raises(ValueError, match="the training set"):
        trained(1, 2, written)


def test_a_longer_run_is_said(tiny_clip, tmp_path, checkpoint):
    with pytest.warns(UserWarning, match="by a run of 4 steps, this one has 6"):
        trainer_of(tiny_clip, tmp_path, max_steps=6).train(resume_from_checkpoint=str(checkpoint))


def test_another_number_of_processes_is_refused(tiny_clip, tmp_path, checkpoint):
    saved = json.loads((checkpoint / VALUES).read_text())["values"]["run"]
    trainer = trainer_of(tiny_clip, tmp_path)
    check_same_run(saved, trainer, 4)
    with pytest.raises(ValueError, match="the number of processes 2, this run has the number of processes 1"):
        check_same_run({**saved, "world_size": 2}, trainer, 4)


def test_no_checkpoint_to_resume_is_one_line(tiny_clip, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(OSError, match="There is no checkpoint in .*start a new run") as caught:
            trainer_of(tiny_clip, folder).train(resume_from_checkpoint=True)
        assert "\n" not in str(caught.value)


def test_the_last_checkpoint_is_compared_too(tiny_clip, tmp_path, checkpoint):
    with pytest.raises(ValueError, match=re.escape("`weight_decay=0.1`, this run has `weight_decay=0.2`")):
        trainer_of(tiny_clip, checkpoint.parent, weight_decay=0.2).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("method", METHODS)
def test_the_record_is_json_and_holds_the_settings_of_the_method(tiny_clip, tmp_path, method):
    from hf_robustft.training.run_record import run_record
    from hf_robustft.training.settings import declared_settings, unused_settings

    record = run_record(trainer_of(tiny_clip, tmp_path, cls=METHODS[method]), 4)
    assert json.loads(json.dumps(record)) == record
    of_output = {"export_weights", "preset", "shard_teacher"}
    idle = unused_settings(METHODS[method], RobustTrainingArguments)
    assert set(record) >= declared_settings(METHODS[method]) - of_output - idle
