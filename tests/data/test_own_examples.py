# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Data sets of torch as a Trainer's training set: what they lack is said before a run begins, not by a KeyError within."""

import pytest
import torch
from datasets import DatasetDict
from helpers import arguments, image_dataset, tiny_processor
from torch.utils.data import Dataset

from hf_robustft import FLYPTrainer
from hf_robustft.data.benchmarks import Benchmark


class Examples(Dataset):
    def __init__(self, example):
        self.example = example

    def __len__(self):
        return 16

    def __getitem__(self, index):
        return self.example


PIXELS = torch.zeros(3, 32, 32)


def trainer(model, folder, dataset, **options):
    return FLYPTrainer(
        model, arguments(folder, max_steps=1), train_dataset=dataset, processing_class=tiny_processor(), **options
    )


@pytest.mark.parametrize(
    "example, words",
    [
        ((PIXELS, 1), "is a tuple, without pixel_values and caption"),
        ({"image": PIXELS, "label": 1}, "is a dict of image, label, without pixel_values and caption"),
        ({"pixel_values": PIXELS, "labels": 1}, "is a dict of labels, pixel_values, without caption"),
    ],
)
def test_examples_without_captions_are_refused_at_construction(tiny_clip, tmp_path, example, words):
    with pytest.raises(ValueError, match=words) as error:
        trainer(tiny_clip, tmp_path, Examples(example))
    said = str(error.value)
    assert (
        "datasets.Dataset" in said
        and "Benchmark.from_dataset" in said
        and "data_collator" in said
        and "\n" not in said
    )


def test_a_path_and_a_dict_of_splits_are_no_training_set(tiny_clip, tmp_path):
    with pytest.raises(ValueError, match=r"load_benchmark\('photos/train', role='train'\)"):
        trainer(tiny_clip, tmp_path, "photos/train")
    with pytest.raises(ValueError, match=r"DatasetDict of 'train', 'test'; give one, such as \['train'\]"):
        trainer(tiny_clip, tmp_path, DatasetDict({"train": image_dataset(8), "test": image_dataset(8)}))


def test_what_can_be_made_a_batch_passes(tiny_clip, tmp_path):
    trainer(tiny_clip, tmp_path, Examples({"pixel_values": PIXELS, "caption": "a cat"})).train()
    trainer(tiny_clip, tmp_path, image_dataset(8))
    trainer(tiny_clip, tmp_path, Benchmark.from_dataset(image_dataset(8), name="a", role="train"))
    trainer(tiny_clip, tmp_path, Examples((PIXELS, 1)), data_collator=lambda examples: {})
