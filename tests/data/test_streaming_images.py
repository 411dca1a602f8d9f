# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Unreadable images in a training stream, and images that travel as 256 levels, in training and in evaluation."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from helpers import arguments, step_logs, tiny_processor
from helpers.streams import benchmark, write_folders

from hf_robustft import FLYPTrainer
from hf_robustft.data.bad_images import UNREADABLE, BadImages
from hf_robustft.data.examples import TrainingExamples
from hf_robustft.data.streams.examples import StreamingExamples
from hf_robustft.data.transforms import ImageTransform
from hf_robustft.evaluation import collect


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A folder of 22 pictures of which two are broken."""
    folder = write_folders(tmp_path_factory.mktemp("photos") / "broken", (22,))
    for file in sorted(folder.rglob("*.png"))[3:9:5]:
        file.write_bytes(file.read_bytes()[:60])
    return folder


def examples(folder, **settings):
    return StreamingExamples.from_benchmark(benchmark("folders", folder, ()), tiny_processor(), seed=2, **settings)


def test_the_next_image_takes_the_place_of_an_unreadable_one(broken):
    found = list(itertools.islice(examples(broken, bad_images=BadImages("skip", 0.5)).examples(), 40))
    lines = [line for _, example in found for line in example.get(UNREADABLE, ())]
    assert len(lines) == 4 and len(set(lines)) == 2, "both of them in both passes"
    assert all("00003.png" not in line or "bee" in line for line in lines)
    with pytest.raises(OSError, match=r"row 0 of shard \d+ of data set 'folders' \(.*png\) cannot be read"):
        list(itertools.islice(examples(broken), 40))


@pytest.mark.same_bits("one image at a time, without products of matrices")
def test_a_reader_that_resumes_after_an_unreadable_image_goes_on_alike(broken):
    stream = examples(broken, bad_images=BadImages("skip", 0.5))
    whole = list(itertools.islice(stream.examples(), 40))
    for place in range(0, 38):
        position, example = next(stream.examples(position=whole[place][0]))
        assert position == whole[place + 1][0]
        assert torch.equal(example["pixel_values"], whole[place + 1][1]["pixel_values"])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_trainer_counts_them_when_they_are_trained_past(broken, tiny_clip, tmp_path, workers):
    trainer = FLYPTrainer(
        tiny_clip,
        arguments(tmp_path, per_device_train_batch_size=5, num_train_epochs=2, dataloader_num_workers=workers),
        train_dataset=benchmark("folders", broken, ()),
        processing_class=tiny_processor(),
        bad_images=BadImages("skip", 0.2),
    )
    trainer.train()
    counter = trainer.train_dataset.bad_images
    assert len(step_logs(trainer)) == 8 and len(counter.unreadable) == 2
    assert counter.read == 40 + sum(counter.unreadable.values())
    trainer.bad_images = None
    few = BadImages("skip", 0.01)
    trainer.train_dataset = examples(broken, bad_images=few)
    with pytest.raises(OSError, match="2 of the 22 images of .* cannot be read, more than the 1 %"):
        trainer.train()


def test_a_thousand_unreadable_images_in_a_row_end_the_stream(tmp_path):
    folder = write_folders(tmp_path / "photos", (3,))
    for file in folder.rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(OSError, match="cannot be read"):
        next(examples(folder, bad_images=BadImages("skip", 1.0)).examples())


@pytest.mark.same_bits("one pixel after another by the same formula, then the same batches")
@pytest.mark.parametrize("streamed", [True, False])
def test_levels_give_the_same_run_as_normalised_images(tiny_clip, tmp_path, streamed):
    folder = write_folders(tmp_path / "photos", (12,))
    logs = {}
    for output in ("float32", "uint8"):
        described = benchmark("folders", folder, (), streaming=streamed)
        make = StreamingExamples if streamed else TrainingExamples
        trainer = FLYPTrainer(
            tiny_clip.__class__(tiny_clip.config),
            arguments(tmp_path / output, per_device_train_batch_size=4, max_steps=3),
            train_dataset=make.from_benchmark(described, tiny_processor(), seed=1, output=output),
            processing_class=tiny_processor(),
        )
        trainer.model.load_state_dict(tiny_clip.state_dict())
        assert next(iter(trainer.get_train_dataloader()))["pixel_values"].dtype == getattr(torch, output)
        trainer.train()
        logs[output] = [entry["loss"] for entry in step_logs(trainer)]
    assert logs["uint8"] == logs["float32"]


@pytest.mark.same_bits("one pixel after another by the same formula, then the same batches")
@pytest.mark.parametrize("streamed", [True, False])
def test_levels_are_evaluated_as_normalised_images(tiny_clip, tmp_path, streamed):
    described = benchmark("parquet", tmp_path, (5, 4), role="id", streaming=streamed)
    transform = ImageTransform.from_processor(tiny_processor(), train=False)
    embeds = []
    for output in ("float32", "uint8"):
        chosen = dataclasses.replace(transform, output=output)
        with torch.no_grad():
            found = list(collect.image_batches(tiny_clip, described, chosen, batch_size=4, progress=False))
        embeds.append(torch.cat([batch for _, batch, _ in found]))
    assert torch.equal(*embeds) and len(embeds[0]) == 9
