# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""CRoFT with an image adapter on SigLIP, which no weight can take in: trained, measured again, calibrated, asked and published."""

import json

import pytest
import torch
from helpers import CLASSES, ROUNDING, assert_rounded, image_dataset
from helpers.cards import python_blocks
from helpers.families import save_family
from safetensors.torch import load_file
from test_every_family import images, pictures, results, train  # noqa: F401
from transformers import AutoModel, AutoProcessor
from transformers import pipeline as transformers_pipeline

from hf_robustft import Benchmark, CRoFTTrainer, cli, load_dual_encoder, pipeline
from hf_robustft.deployment.pipeline import TASK
from hf_robustft.evaluation.collect import collect_logits
from hf_robustft.modeling.adapter_file import ADAPTERS_FILE
from hf_robustft.modeling.dual_encoder import DualEncoder
from hf_robustft.modeling.metadata import load_robustft_json

QUIET = ["--use_cpu", "--disable_tqdm", "true"]
KEPT = ("--method", "croft", "--adapter_image_ratio", 0.5, "--learning_rate", 0.05)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases") / "siglip"
    save_family("siglip", folder)
    return folder


def run(*words) -> int:
    return cli.main([str(word) for word in words])


@pytest.fixture(scope="module")
def finished(base, images, tmp_path_factory):  # noqa: F811
    """The folder of a run with an image adapter, a detector and a checkpoint of its second step."""
    output = tmp_path_factory.mktemp("runs") / "kept"
    sets = (f"{images / 'validation'}:validation", f"{images / 'strange'}:open_set")
    assert train(base, images, output, *KEPT, "--save_strategy", "steps", "--save_steps", 2, steps=6, sets=sets) == 0
    return output


def copied(folder, to):
    to.mkdir()
    for path in folder.iterdir():
        if path.is_file():
            (to / path.name).write_bytes(path.read_bytes())
    return to


def test_the_folder_says_it_and_is_measured_again_as_the_run_was(finished, images, base, tmp_path, capsys):  # noqa: F811
    assert json.loads((finished / "config.json").read_text())["robustft_image_adapter"] == ADAPTERS_FILE
    assert load_robustft_json(finished)["adapters"] == {"file": ADAPTERS_FILE, "kept": ["image"]}
    before, after = load_file(base / "model.safetensors"), load_file(finished / "model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys() and moved == {"text_model.head.weight", "text_model.head.bias"}
    sets = [images / "test", f"{images / 'strange'}:open_set"]
    assert run("evaluate", finished, "--eval_datasets", *sets, "--output_dir", tmp_path / "again", *QUIET) == 0
    again = results(tmp_path / "again")
    # Of draws of a few images each, in some of which a confidence is at the edge of a bin.
    assert_rounded({**again, "draws": None}, {**results(finished), "draws": None})
    # Without the adapter they would be others.
    plain = AutoModel.from_pretrained(finished)
    del plain.config.robustft_image_adapter
    plain.save_pretrained(tmp_path / "plain")
    AutoProcessor.from_pretrained(finished).save_pretrained(tmp_path / "plain")
    facts = json.loads((finished / "robustft.json").read_text())
    (tmp_path / "plain" / "robustft.json").write_text(json.dumps({name: facts[name] for name in facts if name != "adapters"}))
    assert run("evaluate", tmp_path / "plain", "--eval_datasets", *sets, "--output_dir", tmp_path / "other", *QUIET) == 0
    assert abs(results(tmp_path / "other")["nll"] - again["nll"]) > 1e-3


def test_the_pipeline_answers_as_the_evaluation(finished, images, tmp_path):  # noqa: F811
    rows, facts = image_dataset(12, seed=1), load_robustft_json(finished)
    data = Benchmark.from_dataset(rows, name="test", role="id", templates=facts["templates"])
    assert sorted(data.class_names) == facts["class_names"]
    model, processor = load_dual_encoder(finished)
    logits, _ = collect_logits(model, data, processor, progress=False)
    found = [pipeline(finished), transformers_pipeline(TASK, model=str(finished))]
    found[0].save_pretrained(tmp_path / "saved")
    found.append(pipeline(tmp_path / "saved"))
    for classify in found:
        assert DualEncoder.of(classify.model).image_adapter is not None
        answers = classify([row["image"] for row in rows], top_k=None)
        temperature = classify.detector.temperature
        wanted = temperature.probabilities(logits)
        for answer, row in zip(answers, wanted, strict=True):
            given = {item["label"]: item["score"] for item in answer["classes"]}
            # Images one by one round otherwise than in a batch, and a temperature below 1 enlarges that as it does the logits.
            limit = 1e-6 / min(temperature.temperature, 1.0)
            assert [given[name] for name in data.class_names] == pytest.approx(row.tolist(), abs=limit)


def test_it_is_calibrated_and_published_with_it(finished, images, tmp_path, capsys):  # noqa: F811
    folder = copied(finished, tmp_path / "kept")
    command = ["calibrate", folder, "--dataset", images / "validation", "--eval_datasets", images / "test", "--disable_tqdm"]
    assert run(*command) == 0, capsys.readouterr().err
    temperature, row = (load_robustft_json(folder)["temperature"][key] for key in ("folded", "sets"))
    assert row["test"]["nll"][0] == pytest.approx(results(finished)["nll"], rel=ROUNDING) and temperature != 1
    assert load_robustft_json(folder)["adapters"]["kept"] == ["image"]
    assert run("evaluate", folder, "--eval_datasets", images / "test", "--output_dir", tmp_path / "again", *QUIET) == 0
    assert results(tmp_path / "again")["nll"] == pytest.approx(row["test"]["nll"][1], rel=1e-9)
    capsys.readouterr()
    assert run("publish", folder, "--repo_id", "user/some", "--dry_run") == 0
    assert ADAPTERS_FILE in capsys.readouterr().out
    (folder / ADAPTERS_FILE).unlink()
    for command in (
        ["publish", folder, "--repo_id", "user/some", "--dry_run"],
        ["evaluate", folder, "--eval_datasets", images / "test", "--output_dir", tmp_path / "more", *QUIET],
        ["calibrate", folder, "--dataset", images / "validation", "--disable_tqdm"],
    ):
        assert run(*command) != 0
        said = capsys.readouterr().err.strip().splitlines()
        assert len([line for line in said if ADAPTERS_FILE in line]) == 1 and "Traceback" not in "".join(said)
    with pytest.raises(FileNotFoundError, match=ADAPTERS_FILE):
        pipeline(folder)


def test_the_card_says_that_plain_transformers_leaves_it_out(finished, images, monkeypatch, capsys):  # noqa: F811
    card = (finished / "README.md").read_text()
    said = " ".join(card.split())
    assert "Transformers alone gives other features of images" in said and "only the text adapter is merged" in said
    code = next(block for block in python_blocks(finished / "README.md") if "load_dual_encoder" in block)
    picture = pictures(images)[0]
    monkeypatch.chdir(finished)
    exec(code.replace("photo.png", picture), {})
    printed = capsys.readouterr().out.strip().splitlines()[-1]
    answer = pipeline(finished, require_detector=False)(picture)
    assert printed.split(" ", 1)[1] == answer["nearest_class"] and answer["nearest_class"] in CLASSES


@pytest.mark.same_bits("resumed from what was saved; the same batches in the same order")
def test_a_resumed_run_ends_as_the_whole_one(finished, base, images, tmp_path):  # noqa: F811
    more = [*KEPT, "--save_strategy", "steps", "--save_steps", 2, "--resume_from_checkpoint", finished / "checkpoint-4"]
    sets = (f"{images / 'validation'}:validation", f"{images / 'strange'}:open_set")
    assert train(base, images, tmp_path / "resumed", *more, steps=6, sets=sets) == 0
    for name in (ADAPTERS_FILE, "model.safetensors"):
        assert (tmp_path / "resumed" / name).read_bytes() == (finished / name).read_bytes()
    assert results(tmp_path / "resumed") == results(finished)


def test_no_run_starts_from_it_and_nothing_is_merged_with_it(finished, base, images, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "out"
    for model, more, option in (
        (finished, ["--method", "flyp"], "adapters.safetensors"),
        (finished, ["--method", "zero_shot"], f"`--model {finished}`"),
        (finished, ["--method", "tip_adapter"], f"`--model {finished}`"),
        (base, ["--method", "wise_ft", "--finetuned_model", finished], f"`--finetuned_model {finished}`"),
        (base, ["--method", "wise_ft", "--finetune_with", "croft", "--adapter_image_ratio", 0.2], "`--adapter_image_ratio 0.2`"),
        (base, ["--method", "carot+croft", "--orthogonality_weight", 0, "--adapter_image_ratio", 0.2], "`adapter_image_ratio=0.2`"),
    ):
        capsys.readouterr()
        words = ["train", "--model", model, "--output_dir", out, "--train_dataset", images / "train", "--eval_datasets", images / "test"]
        assert run(*words, *more, *([] if "zero_shot" in more or "--finetuned_model" in more or "tip_adapter" in more else ["--max_steps", 2]), "--use_cpu") != 0
        said = capsys.readouterr().err.strip().splitlines()
        assert option in said[-1] and "Traceback" not in "".join(said), said
        assert not (out / "config.json").exists()


def test_by_default_texts_alone_are_adapted_and_the_folder_is_plain(base, images, tmp_path):  # noqa: F811
    assert train(base, images, tmp_path / "out", "--method", "croft", "--learning_rate", 0.05, steps=2) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "robustft_image_adapter" not in config and "adapters" not in load_robustft_json(tmp_path / "out")
    assert "image adapter" not in (tmp_path / "out" / "README.md").read_text()
    assert CRoFTTrainer.keeps_image_adapter
