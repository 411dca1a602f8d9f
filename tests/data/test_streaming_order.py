# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Which reader gets which rows in which order: every row once a pass, and the same sequence from any place on."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

import pytest
import torch
from helpers import TEMPLATES, tiny_processor
from helpers.streams import benchmark
from torch.utils.data import DataLoader

from hf_robustft.data import transforms
from hf_robustft.data.examples import TrainingExamples
from hf_robustft.data.randomness import example_rng
from hf_robustft.data.streams.examples import StreamingExamples
from hf_robustft.data.streams.order import Position, Reader, parts_of_a_shard, permutation

#: Unequal shards, one of them empty, and (by more readers) fewer shards than readers. An empty tar cannot be the first.
SIZES = {"parquet": (5, 0, 9, 3), "tar": (5, 0, 9, 3), "folders": (17,)}


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streams")
    return {kind: benchmark(kind, folder / kind, sizes).row_stream() for kind, sizes in SIZES.items()}


def until(reader: Reader, epoch: int) -> list:
    return list(itertools.takewhile(lambda item: item[1].epoch < epoch, reader))


def sequence(stream, reader: int, readers: int, epochs: int = 3, **settings) -> list[tuple[int, int]]:
    settings = {"seed": 3, "buffer": 4, **settings}
    return [(item.epoch, item.index) for _, item in until(Reader(stream, reader, readers, **settings), epochs)]


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("readers", [1, 4, 17])
def test_readers_together_see_each_row_once_a_pass(streams, kind, readers):
    seen = [sequence(streams[kind], reader, readers) for reader in range(readers)]
    assert all(seen), "every reader must have something to do"
    for epoch in range(3):
        rows = [index for part in seen for of, index in part if of == epoch]
        assert len(rows) == len(set(rows)) == 17
    for part in seen:
        assert [epoch for epoch, _ in part] == sorted(epoch for epoch, _ in part)


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("readers", [1, 6])
@pytest.mark.parametrize("settings", [{}, {"shuffle": False}, {"buffer": 100}], ids=["windows", "sequential", "one"])
def test_from_every_position_a_reader_goes_on_as_it_would_have(streams, kind, readers, settings):
    settings = {"seed": 3, "buffer": 4, **settings}
    for reader in range(readers):
        whole = until(Reader(streams[kind], reader, readers, **settings), 3)
        for place in range(0, len(whole), 1 + len(whole) // 4):
            position = Position(*map(int, whole[place][0]))
            resumed = itertools.islice(Reader(streams[kind], reader, readers, position=position, **settings), 6)
            wanted = [(at, item.epoch, item.index) for at, item in whole[place + 1 : place + 7]]
            assert [(at, item.epoch, item.index) for at, item in resumed][: len(wanted)] == wanted


@pytest.mark.parametrize("kind", SIZES)
def test_each_pass_has_an_order_of_its_own_that_the_seed_decides(streams, kind):
    orders = {}
    for seed in (3, 4):
        rows = sequence(streams[kind], 0, 1, seed=seed)
        orders |= {(seed, epoch): tuple(index for of, index in rows if of == epoch) for epoch in range(3)}
    assert len(set(orders.values())) == len(orders)
    assert orders[3, 1] == tuple(index for of, index in sequence(streams[kind], 0, 1) if of == 1)


def test_rows_are_shuffled_over_shards_by_windows_and_not_at_all_if_asked(streams):
    rows = sequence(streams["parquet"], 0, 1, epochs=1, shuffle=False)
    assert [index for _, index in rows] == sorted(index for _, index in rows)
    mixed = [index >> 32 for _, index in sequence(streams["parquet"], 0, 1, epochs=1, buffer=100)]
    assert mixed != sorted(mixed) and len(set(mixed)) == 3
    changes = sum(a != b for a, b in itertools.pairwise(mixed))
    assert changes > 2, "one window over all must mix the shards"
    # Files of a folder can be asked for by number: all of them are shuffled, whatever the buffer.
    listed = [index for _, index in sequence(streams["folders"], 0, 1, epochs=1, buffer=1)]
    assert sorted(listed) == list(range(17)) and max(abs(a - b) for a, b in enumerate(listed)) > 4


def test_no_reader_falls_behind_by_more_than_a_part(streams):
    # Four shards for three readers: one of them gets two in a pass, another in the next.
    stream = dataclasses.replace(streams["parquet"], counts=None)
    readers = [Reader(stream, reader, 3, seed=1) for reader in range(3)]
    given = [[reader.slot(turn)[0] for turn in range(28)] for reader in readers]
    counts = Counter(epoch for part in given for epoch in part)
    assert counts == dict.fromkeys(range(21), 4), "four shards in each pass, none of them late"
    assert parts_of_a_shard(4, 3) == 1 and parts_of_a_shard(1, 4) == 4 and parts_of_a_shard(3, 4) == 2


def test_a_shard_with_more_than_its_share_is_cut_for_all_readers(streams):
    counts = streams["parquet"].counts
    assert counts == (5, 0, 9, 3) and parts_of_a_shard(4, 3, counts) == 3
    assert parts_of_a_shard(4, 2, counts) == 1, "9 rows of 17 are little more than a half"
    assert parts_of_a_shard(2, 4, (2, 20)) == 4 and parts_of_a_shard(2, 4, (10, 12)) == 2
    assert parts_of_a_shard(2, 30, (2, 20)) == 15, "cut into 30, it would leave readers without a row"
    readers = [Reader(streams["parquet"], reader, 3, seed=1, buffer=2) for reader in range(3)]
    one_pass = [item.index for reader in readers for _, item in until(reader, 1)]
    assert len(one_pass) == len(set(one_pass)) == 17


@pytest.mark.same_bits("one image at a time, without products of matrices")
def test_a_resumed_reader_reads_one_window_and_decodes_nothing_before_its_place(streams, monkeypatch):
    decoded, read = [], []
    decode = transforms.ImageTransform.decode
    monkeypatch.setattr(
        transforms.ImageTransform, "decode", lambda *args, **kw: decoded.append(1) or decode(*args, **kw)
    )
    stream = streams["parquet"]
    shard_rows = type(stream.source).rows
    monkeypatch.setattr(
        type(stream.source),
        "rows",
        lambda self, *args: (read.append(row) or row for row in shard_rows(self, *args)),
    )
    transform = transforms.ImageTransform.from_processor(tiny_processor(), train=True)
    examples = StreamingExamples(
        stream, transform, class_names=("cat", "dog", "owl", "bee"), templates=TEMPLATES, seed=3, buffer=4
    )
    whole = list(itertools.islice(examples.examples(), 47))
    assert len(decoded) == 47
    decoded.clear()
    read.clear()
    position, example = next(examples.examples(position=whole[44][0]))
    assert len(decoded) == 1 and position == whole[45][0]
    assert torch.equal(example["pixel_values"], whole[45][1]["pixel_values"])
    assert example["caption"] == whole[45][1]["caption"] and example["label"] == whole[45][1]["label"]
    assert len(read) <= 2 * 4 + 2, "a window and what fills the next, not the 45 rows before"


@pytest.mark.same_bits("one image at a time, without products of matrices")
def test_examples_are_those_of_the_stored_data_and_differ_between_passes(streams, tmp_path):
    stored = benchmark("folders", tmp_path / "folders", (9,), streaming=False)
    streamed = benchmark("folders", tmp_path / "folders", (9,))
    options = {"scale": (0.2, 0.9)}
    map_style = TrainingExamples.from_benchmark(stored, tiny_processor(), seed=5, **options)
    examples = StreamingExamples.from_benchmark(streamed, tiny_processor(), seed=5, shuffle=False, **options)
    assert len(examples) == len(map_style) == 9
    for place, example in enumerate(itertools.islice(examples, 18)):
        same = map_style[divmod(place, 9)]
        assert example.keys() == same.keys() and torch.equal(example["pixel_values"], same["pixel_values"])
        assert (example["caption"], example["label"]) == (same["caption"], same["label"])


@pytest.mark.same_bits("one image at a time, without products of matrices")
def test_a_border_is_cut_off_in_training(tmp_path):
    described = [benchmark("folders", tmp_path / "folders", (5,), streaming=streaming, border=4) for streaming in (False, True)]
    whole = TrainingExamples.from_benchmark(dataclasses.replace(described[0], border=0), tiny_processor(), seed=5)
    stored = TrainingExamples.from_benchmark(described[0], tiny_processor(), seed=5)
    kept = TrainingExamples.from_benchmark(described[0], tiny_processor(), seed=5, keep_decoded=True)
    streamed = StreamingExamples.from_benchmark(described[1], tiny_processor(), seed=5, shuffle=False)
    transform = transforms.ImageTransform.from_processor(tiny_processor(), train=True)
    for index, example in enumerate(itertools.islice(streamed, 5)):
        image = described[0].load()[index]["image"]
        inner = image.crop((4, 4, image.width - 4, image.height - 4))
        want = transform(inner, example_rng(5, 0, index, "crop"))
        for found in (example, stored[index], kept[index]):
            assert torch.equal(found["pixel_values"], want)
        assert not torch.equal(whole[index]["pixel_values"], want)


def test_a_plain_data_loader_shares_the_rows_among_its_workers(streams):
    transform = transforms.ImageTransform.from_processor(tiny_processor(), train=True)
    examples = StreamingExamples(streams["tar"], transform, class_names=("a", "b", "c", "d"), templates=TEMPLATES)
    loader = DataLoader(examples, batch_size=None, num_workers=2)
    pixels = [example["pixel_values"].numpy().tobytes() for example in itertools.islice(loader, 16)]
    assert len(set(pixels)) == 16


def test_bad_input_is_refused(streams):
    stream = streams["tar"]
    for reader, readers, buffer in ((2, 2, 5), (-1, 2, 5), (0, 1, 0)):
        with pytest.raises(ValueError, match="give 0 <= reader < readers and 1 or more"):
            Reader(stream, reader, readers, buffer=buffer)
    transform = transforms.ImageTransform.from_processor(tiny_processor(), train=True)
    settings = {"class_names": ("a", "b", "c", "d"), "templates": TEMPLATES}
    for wrong in ({"buffer": 0}, {"size": 0}):
        with pytest.raises(ValueError, match="needs at least 1 of each"):
            StreamingExamples(stream, transform, **settings, **wrong)
    assert sorted(permutation(5, 1, "a")) == list(range(5))


def test_more_readers_than_rows_are_refused_when_one_finds_nothing(tmp_path):
    stream = benchmark("parquet", tmp_path, (1, 0)).row_stream()
    assert next(iter(Reader(stream, 0, 2)))[1].index == 0
    with pytest.raises(
        ValueError, match=r"reader 2 of 4 found no row in any of the 2 shards.*--dataloader_num_workers"
    ):
        for reader in range(4):
            next(iter(Reader(stream, reader, 4)))
