# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Data that are wrong are refused before a weight of the model is read, which takes minutes where it is large."""

import shutil

import pytest
from helpers import CLASSES, TEMPLATES, image_dataset, tiny_config, tiny_processor
from helpers.families import save_family
from helpers.reports import report, result
from transformers import CLIPModel

from hf_robustft.cli import calibrate, demo, evaluate, export, train, verify
from hf_robustft.evaluation.report import save_reports
from hf_robustft.modeling import checkpoint
from hf_robustft.publishing.metadata import write_robustft_json

QUIET = "--use_cpu --disable_tqdm"
TRAIN = f"--model base --train_dataset train.parquet --output_dir out --max_steps 1 {QUIET} --report_to none"
EVALUATE = f"base --output_dir out {QUIET}"
CALIBRATE = f"base {QUIET}"
EXPORT = f"base --output_dir out --format torch_export {QUIET}"
DEMO = f"base --space out {QUIET}"

ROWS = [
    ("train", f"{TRAIN} --eval_datasets broken.parquet", "broken.parquet"),
    ("train", f"{TRAIN} --eval_datasets empty", "empty"),
    ("train", f"{TRAIN} --eval_datasets ./nowhere", "nowhere"),
    ("train", f"{TRAIN} --eval_datasets other.parquet", "fox"),
    ("train", f"{TRAIN} --eval_datasets train.parquet", "--allow_overlap"),
    ("train", f"{TRAIN} --eval_datasets test.parquet other.parquet:open_set test.parquet:shift", "the same data"),
    ("train", f"{TRAIN} --eval_datasets emoji_shift/validation --method ft", "the same classes"),
    ("train", f"{TRAIN} --eval_datasets test.parquet --train_dataset captions.parquet", "label"),
    ("train", f"{TRAIN} --eval_datasets test.parquet --model nothing/here/at/all", "nothing/here"),
    ("train", f"{TRAIN} --eval_datasets pacs", "pacs-art_painting"),
    ("train", f"{TRAIN} --eval_datasets test.parquet {{suite}}", "--train_dataset"),
    ("train", f"{TRAIN.replace('--train_dataset train.parquet', '')} --eval_datasets numbers.parquet", "--train_dataset"),
    ("evaluate", f"{EVALUATE} --eval_datasets few-shot", "caltech101"),
    ("evaluate", f"{EVALUATE} --eval_datasets broken.parquet", "broken.parquet"),
    ("evaluate", f"{EVALUATE} --eval_datasets other.parquet", "fox"),
    ("evaluate", f"{EVALUATE} --eval_datasets test.parquet held_out.parquet:open_set", "open set"),
    ("evaluate", f"{EVALUATE} --eval_datasets test.parquet --knn_bank train.parquet", "knn_bank"),
    ("calibrate", f"{CALIBRATE} --dataset broken.parquet", "broken.parquet"),
    ("calibrate", f"{CALIBRATE} --dataset other.parquet", "fox"),
    ("calibrate", f"{CALIBRATE} --dataset test.parquet --eval_datasets test.parquet", "--eval_datasets"),
    ("calibrate", f"{CALIBRATE} --dataset held_out.parquet --eval_datasets other.parquet:open_set", "open set"),
    ("verify", f"base {QUIET}", "evaluation.json"),
    ("verify", f"claims --data test=broken.parquet {QUIET}", "broken.parquet"),
    ("verify", f"claims --data test=other.parquet {QUIET}", "fox"),
    ("verify", f"claims --data tset=test.parquet {QUIET}", "'test'"),
    ("export", f"{EXPORT} --dataset broken.parquet", "broken.parquet"),
    ("export", f"{EXPORT} --dataset other.parquet", "fox"),
    ("export", f"{EXPORT} --dataset held_out.parquet --image_column picture", "picture"),
    ("demo", f"{DEMO} --dataset broken.parquet", "broken.parquet"),
    ("demo", f"{DEMO} --dataset other.parquet", "fox"),
]
RIGHT = {
    "train": f"{TRAIN} --eval_datasets test.parquet held_out.parquet:validation other.parquet:open_set",
    "evaluate": f"{EVALUATE} --eval_datasets test.parquet other.parquet:open_set --knn_bank train.parquet",
    "calibrate": f"{CALIBRATE} --dataset held_out.parquet --eval_datasets test.parquet",
    "export": f"{EXPORT} --dataset held_out.parquet",
    "demo": f"{DEMO} --dataset held_out.parquet",
    "verify": f"claims --data test=test.parquet {QUIET}",
}


class Read(Exception):
    """The weights are read."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A finished checkpoint, and data that fit it or do not."""
    place = tmp_path_factory.mktemp("data_first")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        CLIPModel(tiny_config()).save_pretrained("base")
        tiny_processor().save_pretrained("base")
        save_family("siglip", "siglip")
        write_robustft_json("base", method="flyp", class_names=CLASSES, templates=TEMPLATES, settings={})
        sets = {"train": (CLASSES, 12), "test": (CLASSES, 8), "held_out": (CLASSES, 8), "other": (("fox", "ant"), 6),
                "numbers": (("part 1", "part 2"), 6)}  # fmt: skip
        for seed, (name, (classes, n)) in enumerate(sets.items()):
            image_dataset(n, seed=seed, classes=classes).to_parquet(f"{name}.parquet")
        captions = image_dataset(4).remove_columns("label").add_column("caption", ["a cat"] * 4)
        captions.to_parquet("captions.parquet")
        (place / "broken.parquet").write_bytes(b"PAR1 and no more")
        (place / "empty").mkdir()
        shutil.copytree("base", "claims")
        save_reports("claims/evaluation.json", [report(results={"test": result("test", "id", n=8)}, spectrum=None)])
    return place


@pytest.fixture
def run(script, place, monkeypatch):
    """Carries a command out, which ends where the weights would be read."""

    def read(*arguments, **options):
        raise Read

    monkeypatch.chdir(place)
    monkeypatch.setattr(checkpoint, "_model", read)
    programs = {"train": [train.train, script.main], "evaluate": [evaluate.run], "calibrate": [calibrate.run], "export": [export.run]}
    programs |= {"verify": [verify.run], "demo": [demo.run]}

    def carry_out(command, line, error, match):
        for program in programs[command]:
            with pytest.raises(error, match=match):
                program(line.split())

    return carry_out


NOWHERE = f"--model siglip --train_dataset ./nowhere --eval_datasets ./nowhere --output_dir out {QUIET} --report_to none"
OF_SIGLIP = [
    # What nobody typed is said to be the default, with what to type.
    ("", "^`--method` was not given, and is carot by default: `orthogonality_weight=0.2`.*--method covariance_anchor.*`--orthogonality_weight 0`"),
    ("--method carot", "^`orthogonality_weight=0.2`.*--method covariance_anchor"),
    ("--recipe emoji_shift/carot+croft", r"^`--method` was not given, and is carot\+croft by recipe emoji_shift/carot\+croft: "),
    ("--method carot+croft --orthogonality_weight 0 --adapter_image_ratio 0.1", "`adapter_image_ratio=0.1`.*--adapter_image_ratio 0,.*`clip_adapter`"),
    ("--method croft --adapter_text_ratio 0", "`adapter_text_ratio=0`"),
    ("--method carot+croft", "--method covariance_anchor"),
    ("--method tracer --cross_frobenius_weight 0.1", "`cross_frobenius_weight=0.1`.* set it to 0"),
    ("--method tracer --paper_settings", "`cross_frobenius_weight=0.05`.* set it to 0"),
    ("--method flyp --contrastive_label_smoothing 0.1", "`contrastive_label_smoothing=0.1`.* set it to 0"),
    # What it can do is looked at next.
    ("--method tracer", "nowhere"),
    ("--method croft --adapter_image_ratio 0.1", "nowhere"),
    ("--method covariance_anchor", "nowhere"),
    ("--orthogonality_weight 0", "nowhere"),
]


@pytest.mark.parametrize(("flags", "name"), OF_SIGLIP)
def test_a_method_that_a_model_cannot_serve_is_refused_before_data_are_opened(run, place, flags, name):
    run("train", f"{NOWHERE} {flags}", (ValueError, OSError), name)
    assert not (place / "out").exists()


@pytest.mark.parametrize(("command", "line", "name"), ROWS)
def test_wrong_data_are_refused_before_weights_are_read(run, command, line, name):
    run(command, line, (ValueError, OSError), name)


@pytest.mark.parametrize("command", RIGHT)
def test_weights_are_read_where_the_data_are_right(run, command):
    run(command, RIGHT[command], Read, None)
