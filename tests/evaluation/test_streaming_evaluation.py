# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Evaluating a stream gives what evaluating the stored data gives, and a truncated one gives an error."""

from __future__ import annotations

import dataclasses
import io
import re
import threading

import pytest
import torch
from helpers import CLASSES, assert_rounded, tiny_processor
from helpers.forked import run_ranks
from helpers.streams import benchmark, write_parquet, write_tars
from safetensors.torch import load_file

from hf_robustft import Evaluator
from hf_robustft.data.bad_images import BadImages
from hf_robustft.data.streams import rows as stream_rows
from hf_robustft.data.streams.examples import StreamedEvaluationImages, check_count
from hf_robustft.data.transforms import ImageTransform
from hf_robustft.evaluation.collect import collect_logits

SIZES = {1: (11,), 3: (5, 2, 4), 8: (1, 2, 1, 2, 1, 1, 2, 1)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {shards: tmp_path_factory.mktemp(f"shards{shards}") / "data" for shards in SIZES}


def collect(model, chosen, **settings):
    return collect_logits(model, chosen, tiny_processor(), progress=False, **{"batch_size": 4, **settings})


def transform():
    return ImageTransform.from_processor(tiny_processor(), train=False)


@pytest.mark.parametrize("kind", ["parquet", "tar"])
@pytest.mark.parametrize("sizes", [*SIZES.values(), (1, 2, 0, 3, 1, 1, 2, 1)])
def test_each_image_is_scored_once_over_any_readers(tmp_path, kind, sizes):
    stream = benchmark(kind, tmp_path, sizes, role="id").row_stream()
    settings = {"batch_size": 3, "processes": 2}
    everything = next(iter(StreamedEvaluationImages(stream, transform(), 100)))
    assert len(everything["index"]) == 11 and everything["labels"].tolist() == [n % 4 for n in range(11)]
    for readers in (1, 2, 3):
        parts = [StreamedEvaluationImages(stream, transform(), process=process, **settings) for process in range(2)]
        found = []
        for images in parts:
            for reader in range(readers):
                rows = images._rows(reader * 2 + images.process, readers * 2)
                found += [row[0] for row in rows]
        assert sorted(found) == everything["index"].tolist()


@pytest.mark.same_bits("one reader makes the stored data's batches; two are compared up to rounding")
@pytest.mark.parametrize("shards", SIZES)
@pytest.mark.parametrize("workers", [0, 2])
def test_logits_and_labels_equal_those_of_the_stored_data(tiny_clip, folders, shards, workers):
    described = {"role": "id", "split": "train"}
    streamed = benchmark("parquet", folders[shards], SIZES[shards], **described)
    stored = benchmark("parquet", folders[shards], SIZES[shards], streaming=False, **described)
    logits, labels = collect(tiny_clip, streamed, num_workers=workers)
    wanted, wanted_labels = collect(tiny_clip, stored)
    assert torch.equal(labels, wanted_labels) and labels.tolist() == [n % 4 for n in range(11)]
    if workers == 0:
        assert torch.equal(logits, wanted), "one reader makes the very same batches"
    assert_rounded(logits, wanted)


@pytest.mark.same_bits("one reader makes the stored data's batches of 4")
def test_an_evaluators_report_and_files_equal_those_of_the_stored_data(tiny_clip, folders, tmp_path):
    reports = {}
    for streaming in (True, False):
        sets = [
            benchmark("parquet", folders[3], SIZES[3], role=role, name=role, streaming=streaming)
            for role in ("id", "shift")
        ]
        sets.append(
            benchmark(
                "tar",
                folders[3].with_name("tars"),
                (6, 3),
                role="open_set",
                name="new",
                class_names=("ant", "fox", "elk", "hen"),
                streaming=streaming,
            )
        )
        evaluator = Evaluator(sets, tiny_processor(), batch_size=4, bootstrap_draws=20, progress=False)
        report = evaluator.evaluate(tiny_clip, logits_dir=tmp_path / str(streaming))
        reports[streaming] = report.metrics()
    assert reports[True] == reports[False]
    for name in ("id", "shift", "new"):
        one, two = (load_file(tmp_path / str(streaming) / f"{name}.safetensors") for streaming in (True, False))
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_a_short_shard_is_an_error_that_names_set_and_numbers(tiny_clip, tmp_path):
    chosen = benchmark("tar", tmp_path, (5, 4), role="id", name="pictures")
    rows = chosen.row_stream()
    more = dataclasses.replace(rows, declared=10, declared_by="the data set itself")
    chosen = dataclasses.replace(chosen, opened=more)
    message = r"data set 'pictures': 9 rows were read, but the data set itself says there are 10; a truncated shard"
    with pytest.raises(OSError, match=message) as caught:
        collect(tiny_clip, chosen)
    assert "\n" not in str(caught.value)
    assert check_count(rows, 9) is None
    # A number that was never verified is no reason to stop.
    unsure = dataclasses.replace(rows, declared=10, certain=False, declared_by="the registry")
    chosen = dataclasses.replace(chosen, opened=unsure)
    with pytest.warns(UserWarning, match=r"the registry says there are 10 \(not verified\); compare"):
        logits, _ = collect(tiny_clip, chosen)
    assert len(logits) == 9


def test_a_tar_that_was_cut_is_found_before_it_is_read(tmp_path):
    write_tars(tmp_path, (6, 6))
    cut = tmp_path / "train" / "00001.tar"
    cut.write_bytes(cut.read_bytes()[:9000])
    with pytest.raises(OSError, match=r"tar '.*00001.tar' is damaged: unexpected end of data; fetch it again"):
        benchmark("tar", tmp_path, ()).row_stream()
    write_parquet(tmp_path / "parquet", (3, 3))
    cut = next((tmp_path / "parquet").glob("*-00001-*"))
    cut.write_bytes(cut.read_bytes()[:-200])
    with pytest.raises(OSError, match=r"parquet file '.*' is damaged: .*; fetch it again"):
        benchmark("parquet", tmp_path / "parquet", ()).row_stream()


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_left_out_counted_and_named(tiny_clip, tmp_path, workers):
    chosen = benchmark("tar", tmp_path, (6, 5), role="id")
    whole, _ = collect(tiny_clip, chosen)
    for row, file in ((2, "00000.tar"), (1, "00001.tar")):
        path = tmp_path / "train" / file
        content = path.read_bytes()
        start = [place for place in range(len(content)) if content.startswith(b"\x89PNG", place)][row]
        path.write_bytes(content[:start] + bytes(64) + content[start + 64 :])
    chosen = benchmark("tar", tmp_path, (), role="id")
    with pytest.raises(OSError, match=r"row 2 of shard 0 of data set 'tar' \(00000002.png\) cannot be read"):
        collect(tiny_clip, chosen)
    counter = BadImages("skip", 0.5, name="tar", total=11)
    logits, labels = collect(tiny_clip, chosen, bad_images=counter, num_workers=workers)
    kept = [n for n in range(11) if n not in (2, 7)]
    torch.testing.assert_close(logits, whole[kept], rtol=1e-5, atol=1e-6)
    assert labels.tolist() == [n % 4 for n in kept]
    assert counter.summary()["count"] == 2 and counter.summary()["of"] == 11 and counter.read == 11
    assert sorted(line.split(" (")[0] for line in counter.summary()["first"]) == [
        "row 1 of shard 1 of data set 'tar'",
        "row 2 of shard 0 of data set 'tar'",
    ]
    with pytest.raises(OSError, match="2 of the 11 images of tar cannot be read, more than the 1 %"):
        collect(tiny_clip, chosen, bad_images=BadImages("skip", name="tar", total=11))


def test_the_border_is_cut_as_described(tiny_clip, tmp_path):
    plain = benchmark("parquet", tmp_path, (3,), role="shift")
    cut = benchmark("parquet", tmp_path, (3,), role="shift", border=5)
    assert not torch.equal(collect(tiny_clip, plain)[0], collect(tiny_clip, cut)[0])
    images = next(iter(StreamedEvaluationImages(cut.row_stream(), transform(), 3, border=5)))
    stored = benchmark("parquet", tmp_path, (3,), role="shift", streaming=False).load()
    for row in range(3):
        picture = stored[row]["image"].crop((5, 5, 39, 31))
        assert torch.equal(images["pixel_values"][row], transform()(picture))


def test_no_trace_is_left(tiny_clip, tmp_path):
    chosen = benchmark("parquet", tmp_path, (3,), role="id")
    random_state = torch.get_rng_state()
    collect(tiny_clip, chosen, num_workers=1)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_bad_input_is_refused(tmp_path):
    stream = benchmark("parquet", tmp_path, (3,), class_names=CLASSES).row_stream()
    with pytest.raises(ValueError, match="batch_size is 0"):
        StreamedEvaluationImages(stream, transform(), 0)
    with pytest.raises(ValueError, match="a random crop would change the results"):
        StreamedEvaluationImages(stream, ImageTransform.from_processor(tiny_processor(), train=True), 4)


def test_parquet_is_read_by_the_thread_that_asks_alone(tmp_path, monkeypatch):
    # One that reads ahead when the interpreter ends aborts the process, exit code -6.
    threads = set()

    class Watched(io.FileIO):
        def read(self, *args):
            threads.add(threading.get_ident())
            return super().read(*args)

        readinto = None

    def watched(file, *args, **options):
        return Watched(file)

    # Here, and where `datasets` reads.
    monkeypatch.setattr(stream_rows, "xopen", watched, raising=False)
    monkeypatch.setattr("datasets.streaming.xopen", watched)
    rows = benchmark("parquet", tmp_path, (9, 9)).row_stream().rows(1)
    assert [next(rows)[0] for _ in range(4)] == [0, 1, 2, 3]
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_a_stream_that_was_not_read_to_its_end_ends_with_the_process_in_silence(tmp_path, kind):
    benchmark(kind, tmp_path / "data", (9, 9))
    columns = {"image_column": "png", "label_column": "cls"} if kind == "tar" else {}
    settings = {"split": "train", "class_names": CLASSES, **columns}
    code = (
        "from hf_robustft.data.benchmarks import Benchmark\n"
        f"chosen = Benchmark(name='pictures', path={str(tmp_path / 'data')!r}, role='id', streaming=True, **{settings!r})\n"
        "rows = chosen.row_stream().rows(0)\n"
        "next(rows)\n"
    )
    done = run_ranks(1, "-c", code)
    # At the end of any process triton, which torch's builds for CUDA bring along, says what of its own leaked.
    said = [line for line in done.stderr.splitlines() if not re.match(r"nanobind: |See https://nanobind| - (?:leaked|\.\.\. skipped) ", line)]
    assert (done.returncode, said) == (0, [])


def test_parquet_that_is_damaged_amid_its_rows_is_named(tmp_path):
    chosen = benchmark("parquet", tmp_path, (9,))
    file = next(tmp_path.glob("*.parquet"))
    content = bytearray(file.read_bytes())
    content[4:60] = bytes(56)
    file.write_bytes(content)
    with pytest.raises(OSError, match=rf"parquet file '.*{file.name}' is damaged: .*; fetch it again"):
        list(chosen.row_stream().rows(0))
