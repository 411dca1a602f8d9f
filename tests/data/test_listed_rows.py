# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Rows with lists of labels as training data: what a batch holds, what is held out, what is refused with its row."""

import json

import datasets
import pytest
import torch
from helpers import CLASSES, TEMPLATES
from helpers.families import family_processor
from helpers.label_lists import label_lists, listed, listed_folder, listed_rows

from hf_robustft.data.benchmarks import Benchmark, load_benchmark
from hf_robustft.data.examples import ClipCollator, TrainingExamples
from hf_robustft.data.hold_out import hold_out, rarest_classes


def test_a_batch_holds_0_and_1_and_the_class_of_each_caption():
    processor = family_processor("siglip")
    examples = TrainingExamples.from_benchmark(listed(n=8), processor)
    batch = ClipCollator(processor.tokenizer)([examples[(0, row)] for row in range(8)])
    want = torch.tensor([[int(c in labels) for c in range(4)] for labels in label_lists(8)])
    assert torch.equal(batch["labels"], want) and not want[0].any()
    assert batch["caption_labels"].shape == (8,) and batch["labels"].dtype == batch["caption_labels"].dtype == torch.int64
    own = want.gather(1, batch["caption_labels"][:, None])[:, 0]
    assert own.tolist() == [0, *[1] * 7]


def test_of_one_label_per_image_nothing_changes():
    rows = listed_rows(8).remove_columns("label").add_column("label", [row % 4 for row in range(8)])
    examples = TrainingExamples.from_benchmark(
        Benchmark.from_dataset(rows, name="train", role="train", class_names=CLASSES, templates=TEMPLATES), family_processor("siglip")
    )
    assert examples.several == 0 and examples[3].keys() == {"pixel_values", "caption", "label"} and examples[3]["label"] == 3


def test_images_are_held_out_by_their_rarest_class():
    lists = [[0, 1], [0], [0], [1, 2], [], [0, 2], [0], [1], [2, 0], []]
    rarest, counts = rarest_classes(lists, 4)
    assert counts.tolist() == [6, 3, 3, 0] and rarest.tolist() == [1, 0, 0, 1, 4, 2, 0, 1, 2, 4]
    train = listed(n=80)
    stays, validation, test = hold_out(train, 0.2)
    parts = [part.load()["label"][:] for part in (stays, validation, test)]
    assert sorted(map(str, sum(parts, []))) == sorted(map(str, label_lists(80)))
    rarest, counts = rarest_classes(label_lists(80), 4)
    for stratum in range(5):
        size = max(int((rarest == stratum).sum() * 0.2), 1)
        for part in parts[1:]:
            assert (rarest_of(part, counts) == stratum).sum() == size, stratum
    assert [part.name for part in (validation, test)] == ["validation", "held-out"] and validation.several == 4
    # The same with groups that stay together.
    grouped = Benchmark.from_dataset(
        listed_rows(80).add_column("patient", [row // 2 for row in range(80)]), name="train", role="train", group_column="patient"
    )
    groups = [set(part.load()["patient"][:]) for part in hold_out(grouped, 0.2)]
    assert not groups[0] & groups[1] and not groups[1] & groups[2] and not groups[0] & groups[2] and all(groups)


def rarest_of(lists, counts):
    return torch.tensor([min(labels, key=lambda label: (counts[label], label), default=4) for labels in lists])


def test_a_class_with_too_few_images_is_named():
    few = listed_rows(24).map(lambda row, index: {"label": [3, *row["label"]] if index == 0 else [c for c in row["label"] if c != 3]}, with_indices=True)  # fmt: skip
    train = Benchmark.from_dataset(few, name="train", role="train", class_names=CLASSES)
    with pytest.raises(ValueError, match="too few images of 1.*bee: 1"):
        hold_out(train, 0.2)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_wrong_label_in_a_list_is_named_with_its_row(tmp_path, streaming):
    folder = listed_folder(tmp_path / "photos", n=6)
    path = folder / "metadata.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    given = {"role": "train", "class_names": CLASSES, "templates": TEMPLATES, "streaming": streaming}
    assert load_benchmark(folder, **given).several == 4
    lines[2]["label"].append("cow")
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match="'cow'.*row 2"):
        list(load_benchmark(folder, **given).stream())


def test_single_labels_among_lists_are_refused_in_one_line(tmp_path):
    folder = listed_folder(tmp_path / "photos", n=6)
    path = folder / "metadata.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[3]["label"] = "owl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises((ValueError, OSError)) as caught:
        load_benchmark(folder, role="train", class_names=CLASSES)
    assert "\n" not in str(caught.value) and "label" in str(caught.value)


def test_names_are_taken_from_the_lists_themselves(tmp_path):
    names = [[CLASSES[label] for label in labels] for labels in label_lists(12)]
    rows = listed_rows(12).remove_columns("label").add_column("label", names, feature=datasets.List(datasets.Value("string")))
    assert Benchmark.from_dataset(rows, name="train", role="train").class_names == tuple(sorted(CLASSES))
    assert load_benchmark(listed_folder(tmp_path / "photos", 12), role="train").class_names == tuple(sorted(CLASSES))
