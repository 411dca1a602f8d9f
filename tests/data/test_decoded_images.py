# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Decoded images that are kept give what decoding gives, in whatever process and order they were kept."""

import errno
import io
import multiprocessing

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features
from helpers import CLASSES, TEMPLATES, sent_to_a_worker
from PIL import Image
from torch.utils.data import DataLoader

import hf_robustft.data.decoded_images as room
import hf_robustft.data.examples as data_examples
from hf_robustft.data.bad_images import BadImages
from hf_robustft.data.decoded_images import DecodedImages, decoded_bytes
from hf_robustft.data.examples import UNREADABLE, TrainingExamples
from hf_robustft.data.images import decode_image
from hf_robustft.data.randomness import example_rng
from hf_robustft.data.transforms import ImageTransform

TRAIN = ImageTransform(16, (0.5,) * 3, (0.5,) * 3, train=True)
N = 12


def picture(seed: int) -> Image.Image:
    """Each of another size."""
    levels = np.random.default_rng(seed).integers(0, 256, (20 + seed, 33 - seed, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def training(contents=None, keep=True, **options) -> TrainingExamples:
    contents = [encoded(picture(seed)) for seed in range(N)] if contents is None else contents
    data = {"image": [{"bytes": content, "path": None} for content in contents], "label": [i % len(CLASSES) for i in range(len(contents))]}
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=list(CLASSES))})
    options = {"class_names": CLASSES, "templates": TEMPLATES, "keep_decoded": keep, **options}
    return TrainingExamples(Dataset.from_dict(data, features=features), TRAIN, **options)


def same(a: dict, b: dict) -> bool:
    return torch.equal(a["pixel_values"], b["pixel_values"]) and (a["caption"], a["label"]) == (b["caption"], b["label"])


def refuse(*_):
    raise AssertionError("an image that is kept was decoded again")


def test_kept_images_give_the_same_examples_in_every_epoch(tmp_path, monkeypatch):
    plain, kept = training(keep=False), training()
    want = [plain[epoch, index] for epoch in range(3) for index in range(N)]
    assert all(same(kept[0, index], want[index]) for index in range(N)) and not list(tmp_path.iterdir())
    kept.decoded.begin(tmp_path)
    assert all(same(kept[0, index], want[index]) for index in range(N))
    monkeypatch.setattr(data_examples, "decode_image", refuse)
    assert all(same(kept[epoch, index], want[epoch * N + index]) for epoch in range(3) for index in range(N))
    kept.decoded.end()
    with pytest.raises(AssertionError, match="decoded again"):
        kept[0, 0]


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_what_one_process_keeps_the_others_read(tmp_path, monkeypatch, context):
    plain, kept = training(keep=False), training()
    kept.decoded.begin(tmp_path)
    kept[0, 3]
    loader = DataLoader(kept, batch_size=None, sampler=[(1, i) for i in range(N)], num_workers=2, multiprocessing_context=context)
    found = list(loader)
    assert all(same(one, plain[1, index]) for index, one in enumerate(found))
    monkeypatch.setattr(data_examples, "decode_image", refuse)
    assert all(same(kept[2, index], plain[2, index]) for index in range(N))


def _keep_all(folder, order, barrier):
    images = DecodedImages(N)
    images.begin(folder)
    barrier.wait()
    for number in order:
        images.keep(number, picture(number))
        assert images.read(number).tobytes() == picture(number).tobytes()


def test_processes_that_keep_the_same_images_at_once_do_not_mix_them(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    orders = [np.random.default_rng(seed).permutation(N).tolist() * 5 for seed in range(4)]
    workers = [context.Process(target=_keep_all, args=(tmp_path, order, barrier)) for order in orders]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    images = DecodedImages(N)
    images.begin(tmp_path)
    for number in range(N):
        found = images.read(number)
        assert found.size == picture(number).size and found.tobytes() == picture(number).tobytes()
    assert len(list(tmp_path.iterdir())) == 5


def test_a_copy_in_a_worker_reads_the_same_files(tmp_path):
    images = DecodedImages(N)
    images.begin(tmp_path)
    images.keep(7, picture(7))
    copied = sent_to_a_worker(images)
    assert copied.read(7).tobytes() == picture(7).tobytes() and copied.read(6) is None


def test_photographs_are_kept_at_their_full_size(tmp_path):
    photograph = encoded(picture(1).resize((400, 300)), "JPEG")
    kept = training([photograph] * 2)
    kept.decoded.begin(tmp_path)
    want = TRAIN(decode_image(photograph), example_rng(0, 4, 1, "crop"))
    assert torch.equal(kept[4, 1]["pixel_values"], want) and torch.equal(kept[4, 1]["pixel_values"], want)
    assert kept.decoded.read(1).size == (400, 300)


def test_images_that_cannot_be_read_are_replaced_as_without(tmp_path):
    contents = [encoded(picture(seed)) for seed in range(N)]
    contents[2] = contents[5] = b"broken"
    plain, kept = (training(contents, keep=keep, bad_images=BadImages("skip", 1.0)) for keep in (False, True))
    kept.decoded.begin(tmp_path)
    for epoch in (0, 0, 1):
        for index in range(N):
            want, found = plain[epoch, index], kept[epoch, index]
            assert same(found, want) and found.get(UNREADABLE) == want.get(UNREADABLE)
    assert kept.decoded.read(2) is None


def test_a_full_disk_is_said_once_and_changes_nothing(tmp_path, monkeypatch):
    plain, kept = training(keep=False), training()
    kept.decoded.begin(tmp_path)
    kept[0, 0]

    def full(file, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(room, "_write_all", full)
    with pytest.warns(UserWarning, match="cache_images") as caught:
        found = [kept[1, index] for index in range(N)]
    assert len(caught) == 1 and all(same(one, plain[1, index]) for index, one in enumerate(found))
    assert kept.decoded.read(0) is not None and kept.decoded.read(1) is None


def test_half_of_an_image_is_never_named(tmp_path, monkeypatch):
    images = DecodedImages(N)
    images.begin(tmp_path)
    images.keep(0, picture(0))
    write = room._write_all

    def killed(file, content):
        if len(content) == 8:
            raise SystemExit
        write(file, content)

    monkeypatch.setattr(room, "_write_all", killed)
    with pytest.raises(SystemExit):
        images.keep(1, picture(1))
    again = DecodedImages(N)
    again.begin(tmp_path)
    assert again.read(1) is None and again.read(0).tobytes() == picture(0).tobytes()


def test_the_room_that_is_needed_is_estimated_from_sizes():
    rows = training().rows
    want = sum(3 * picture(seed).width * picture(seed).height for seed in range(N))
    assert decoded_bytes(rows) == want
    some = sum(3 * picture(seed).width * picture(seed).height for seed in range(0, N, 4)) * 4
    assert decoded_bytes(rows, count=3) == some
    assert decoded_bytes(training([b"broken"] * 3).rows) == 0
