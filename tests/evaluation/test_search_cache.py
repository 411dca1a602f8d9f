# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Alpha and beta of a cache are chosen on validation images; folder, evaluation and pipeline have one and the same head."""

import dataclasses
import json

import pytest
import torch
from helpers import CLASSES, TEMPLATES, arguments, image_dataset, tiny_processor, tiny_tokenizer
from helpers.forked import run_ranks
from safetensors.torch import load_file
from torch.nn.functional import normalize

from hf_robustft import (
    Benchmark,
    ClipAdapterTrainer,
    TipAdapterFTrainer,
    TipAdapterHead,
    ZeroShotHead,
    cache_features,
    finish_checkpoint,
    load_head,
    pipeline,
)
from hf_robustft.evaluation.fitting import search_cache
from hf_robustft.evaluation.report import load_reports
from hf_robustft.publishing.recalibrate import recalibrate


def sets(n=16):
    """Training, validation and test images; of the last two every fifth has a wrong label, for no head to be perfect on."""
    rows = [image_dataset(n, seed=seed) for seed in range(3)]
    rows[1:] = [
        data.map(lambda row, i: {"label": (row["label"] + (i % 5 == 0)) % 4}, with_indices=True) for data in rows[1:]
    ]
    roles = ("train", "validation", "id")
    return [
        Benchmark.from_dataset(data, name=role, role=role, templates=TEMPLATES)
        for data, role in zip(rows, roles, strict=True)
    ]


def test_the_search_is_that_of_every_pair(tiny_clip):
    model = tiny_clip.double()
    train, validation, test = sets(24)
    bank, other = (cache_features(model, item, tiny_processor(), progress=False) for item in (train, validation))
    zero_shot = ZeroShotHead.from_model(model, tiny_tokenizer(), CLASSES, TEMPLATES)
    # Keys that say little, so that accuracy depends on both numbers.
    labels = bank.labels.roll(1)
    labels[::2] = bank.labels[::2]
    head = TipAdapterHead.around(zero_shot, bank.features, labels)
    embeds, best = normalize(other.features[0], dim=-1), (-1, None, None)
    cosines, found = embeds @ head.keys.detach().T, set()
    for i in range(200):
        beta = 0.1 + i * 6.9 / 200
        votes = torch.exp(-beta * (1 - cosines)) @ torch.nn.functional.one_hot(labels, 4).double()
        for j in range(20):
            alpha = 0.1 + j * 2.9 / 20
            right = ((zero_shot(embeds) + alpha * votes).argmax(1) == other.labels).sum().item()
            found.add(right)
            if right > best[0]:
                best = (right, alpha, beta)
    assert len(found) > 2 and best[1:] != (0.1, 0.1)
    record = search_cache(model, validation, tiny_processor(), head, batch_size=5, progress=False)
    assert record["accuracy"] == best[0] / 24 and (record["n"], record["fitted_on"]) == (24, "validation")
    for name, value in zip(("alpha", "beta"), best[1:], strict=True):
        assert record[name] == pytest.approx(value, rel=1e-12) == getattr(head, name).item()
    assert json.loads(json.dumps(record)) == record
    with pytest.raises(ValueError, match="'id' has the role 'id'.*never on those that are measured"):
        search_cache(model, test, tiny_processor(), head, progress=False)


@pytest.mark.parametrize(("cls", "fold"), [(ClipAdapterTrainer, False), (TipAdapterFTrainer, True)])
def test_the_folder_the_evaluation_and_the_pipeline_have_one_head(tiny_clip, tmp_path, cls, fold):
    train, validation, test = sets()
    folder = tmp_path / "out"
    settings = {"max_steps": 2, "warmup_steps": 0, **({"tip_views": 2} if cls is TipAdapterFTrainer else {})}
    trainer = cls(
        tiny_clip,
        arguments(folder, **settings),
        train_dataset=train,
        eval_dataset=[validation, test],
        processing_class=tiny_processor(),
    )
    trainer.train()
    finish_checkpoint(folder, trainer=trainer, fold_temperature=fold, save_logits=True)
    facts, head = json.loads((folder / "robustft.json").read_text()), load_head(folder)
    (report,) = load_reports(folder / "evaluation.json")
    assert facts["head"] == report.results["id"].head == head.label != "trained linear head"
    card = (folder / "README.md").read_text()
    assert f"belong to a {head.label},** which is in `head.safetensors`" in card and "unchanged encoder" in card
    assert ("cache" in facts) == (cls is TipAdapterFTrainer) == ("Alpha and beta of the cache" in card)
    if cls is TipAdapterFTrainer:
        assert facts["temperature"]["folded"] != 1 and facts["cache"]["alpha"] == head.alpha.item()
        assert f"makes alpha {head.alpha.item():.3g}" in card
        assert facts["cache"]["fitted_on"] == "validation" and facts["cache"]["grid"]["beta"]["values"] == 200
    logits = load_file(folder / "logits" / "id.safetensors")["logits"].double()
    probabilities = (logits / facts["temperature"]["temperature"]).softmax(dim=1)
    answers = pipeline(folder)([row["image"] for row in test.load()])
    assert [row["nearest_class"] for row in answers] == [CLASSES[i] for i in logits.argmax(dim=1)]
    assert [row["probability"] for row in answers] == pytest.approx(probabilities.amax(dim=1).tolist(), rel=1e-4)
    pipeline(folder).save_pretrained(tmp_path / "copy")
    assert type(load_head(tmp_path / "copy")) is type(head)
    if cls is TipAdapterFTrainer:
        # Each image six times: another temperature.
        rows = validation.load()
        recalibrate(folder, dataclasses.replace(validation, dataset=rows.select([*range(6)] * 6)), progress=False)
        facts, folded = json.loads((folder / "robustft.json").read_text()), load_head(folder)
        assert facts["cache"]["alpha"] == folded.alpha.item() != head.alpha.item()


@pytest.mark.parametrize("given", [{"tip_beta": 1.0}, {"tip_alpha": 1.17}, {"tip_views": 1}])
def test_numbers_that_are_given_are_kept(tiny_clip, tmp_path, given):
    args = arguments(tmp_path, **given)
    trainer = TipAdapterFTrainer(tiny_clip, args, train_dataset=sets(4)[0], processing_class=tiny_processor())
    assert trainer.searches_head == ("tip_views" in given)


@pytest.mark.numbers
def test_two_processes_find_what_one_finds(tmp_path, capsys):
    exec(compile(WORKER, "worker", "exec"), {})
    (tmp_path / "worker.py").write_text(WORKER)
    run = run_ranks(2, tmp_path / "worker.py", ACCELERATE_USE_CPU="true")
    assert run.returncode == 0, run.stderr[-3000:]
    found = [json.loads(line) for line in (capsys.readouterr().out + run.stdout).splitlines() if line.startswith("{")]
    assert len(found) == 3 and found[0] == found[1] == found[2] and found[0]["n"] == 13


WORKER = """
import json

import torch
from accelerate import PartialState
from helpers import CLASSES, TEMPLATES, image_dataset, tiny_config, tiny_processor, tiny_tokenizer
from transformers import CLIPModel

from hf_robustft import Benchmark, TipAdapterHead
from hf_robustft.evaluation.fitting import search_cache
from hf_robustft.training.distributed import end_gloo

PartialState()
torch.manual_seed(0)
model = CLIPModel(tiny_config()).double().eval()
train, validation = (
    Benchmark.from_dataset(image_dataset(n), name=role, role=role, templates=TEMPLATES)
    for n, role in ((8, "train"), (13, "validation"))
)
head = TipAdapterHead.from_benchmark(model, train, tiny_processor(), views=0, progress=False)
print(json.dumps(search_cache(model, validation, tiny_processor(), head, batch_size=4, progress=False)), flush=True)
end_gloo()
"""
