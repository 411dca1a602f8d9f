# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Files that are changed at random, by seed: readers succeed or end in one line, write nothing outside, and need bounded memory.

The long form, about 20,000 files: `HF_ROBUSTFT_FUZZ=2000 python -m pytest -m slow tests/hostile/test_fuzz.py -s`.
"""

import argparse
import hashlib
import io
import json
import os
import random
import resource
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from helpers import tiny_config, tiny_processor
from helpers.broken_images import encoded, picture, unusual
from helpers.comparisons import made_up_comparison
from helpers.finished import finished
from helpers.fuzzing import (
    breach,
    mangled_bytes,
    mangled_json,
    mangled_safetensors,
    mangled_table,
    mangled_tar,
    mangled_value,
)
from helpers.list_runs import finished_on_lists
from helpers.reports import report
from safetensors.torch import save
from transformers import CLIPModel

from hf_robustft import __version__, load_checkpoint
from hf_robustft.cli.config_file import read_config
from hf_robustft.cli.parser import Manners
from hf_robustft.cli.predict import summary
from hf_robustft.cli.specs import Spec, own_columns
from hf_robustft.comparison.html import write_html
from hf_robustft.comparison.output import check_unclaimed, write_comparison
from hf_robustft.comparison.per_image import risk_coverage, worst_mistakes
from hf_robustft.comparison.runs import read_runs
from hf_robustft.comparison.summary import load_comparison, summarise
from hf_robustft.comparison.summary_schema import check_summary
from hf_robustft.comparison.tables import markdown_table, terminal_table
from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.data.images import MAX_PIXELS_VARIABLE, decode_image
from hf_robustft.data.prompts import load_class_names, load_templates
from hf_robustft.data.transforms import ImageTransform
from hf_robustft.deployment.answer_files import AnswerFiles
from hf_robustft.deployment.answer_tables import Columns
from hf_robustft.deployment.demo import Answered, Demo
from hf_robustft.deployment.extras import SPACE_FILE, SPACE_FORMAT, check_space_folder
from hf_robustft.deployment.image_sources import Place, listed_images
from hf_robustft.deployment.nearest_images import NearestImages
from hf_robustft.deployment.predict import predict
from hf_robustft.deployment.space_files import space_facts
from hf_robustft.deployment.watch_files import Watched, load
from hf_robustft.deployment.watch_files import save as save_watch
from hf_robustft.deployment.watch_page import as_html
from hf_robustft.deployment.watching import Reference, Stream, judge
from hf_robustft.evaluation.detector import OpenSetDetector
from hf_robustft.evaluation.prediction_sets import ConformalClassifier
from hf_robustft.evaluation.predictions import Predictions, SetPredictions, load_predictions
from hf_robustft.evaluation.report import load_reports
from hf_robustft.evaluation.temperature import TemperatureScaling
from hf_robustft.files import locked
from hf_robustft.modeling.feature_cache import _MADE, _content, _read
from hf_robustft.modeling.heads import load_head
from hf_robustft.modeling.metadata import load_robustft_json
from hf_robustft.modeling.tensor_files import opened, read_json_object, shapes_and_kinds
from hf_robustft.publishing.card_facts import CardFacts
from hf_robustft.publishing.claims import Comparison, compare_reports
from hf_robustft.publishing.detail_claims import detail_claims
from hf_robustft.publishing.folder import _check_card, _check_results, pictures
from hf_robustft.publishing.folder_claims import ClaimingFolder, card_claims, fit_claims_not_measured
from hf_robustft.publishing.model_card import refresh_model_card
from hf_robustft.publishing.report_page import report_page
from hf_robustft.publishing.verification import Verification

TRAINING = ImageTransform(32, (0.5,) * 3, (0.5,) * 3, train=True)
#: Files of each kind in the default suite.
FEW = 12


def images():
    samples = [*unusual().values(), *(encoded(picture(1), name) for name in ("BMP", "TIFF", "JPEG2000", "PPM", "ICO", "TGA"))]

    def one(draw, place):
        content = mangled_bytes(draw.choice(samples), draw)
        decode_image(content)
        TRAINING.decode(content, random.Random(0))

    return one


def metadata(folder):
    facts = json.loads((folder / "robustft.json").read_text())
    facts |= {
        "temperature": {"temperature": 1.0, "folded": 1.2, "n": 30, "nll_before": 0.5, "nll_after": 0.4, "fitted_on": "validation"},
        "detector": {
            **{"score": "energy", "threshold": 1.5, "true_positive_rate": 0.95, "achieved_true_positive_rate": 0.96},
            **{"class_names": facts["class_names"], "logit_scale": 20.0, "n": 30, "fitted_on": "validation"},
        },
        "prediction_sets": {
            **{"method": "raps", "coverage": 0.9, "quantile": 0.7, "class_names": facts["class_names"], "scale": 16.7, "n": 30},
            **{"class_quantiles": {facts["class_names"][0]: 0.6}, "min_per_class": 9, "fitted_on": "validation"},
        },
        "merge": {"fine_tuned": ["a"], "fine_tuned_revisions": {"a": "b"}, "trained_with": "flyp", "alpha_rule": "given"},
        "alpha": 0.5,
        "left_out_classes": {"share": 0.25, "fold": 0, "classes": ["dog"]},
    }
    facts["card"] |= {"sets": [{"name": "photo", "role": "id", "n_classes": 4}], "settings": {}, "notes": ["a"], "command": "a b"}
    return facts


def folders():
    def one(draw, place):
        folder, other = finished(place / "one"), finished(place / "two", method="flyp", baseline=(0.8, 0.4, 0.4))
        for of, kinds in ((folder, ("robustft.json", "evaluation.json")),):
            name = draw.choice(kinds)
            content = metadata(of) if name == "robustft.json" else json.loads((of / name).read_text())
            (of / name).write_bytes(mangled_json(content, draw))
        facts, reports = load_robustft_json(folder), load_reports(folder / "evaluation.json")
        TemperatureScaling.from_dict(facts.get("temperature", {"temperature": 1.0}))
        if "detector" in facts:
            OpenSetDetector.from_pretrained(folder)
        if "prediction_sets" in facts:
            ConformalClassifier.from_pretrained(folder).predict_sets(torch.zeros(1, len(facts["class_names"])))
        refresh_model_card(folder, reports[-1])
        report_page(reports)
        claiming = ClaimingFolder.read(folder, "one")
        claims, _ = card_claims(claiming)
        by = Comparison({}, {}, [], 1e-3)
        claims += compare_reports(claiming.report, claiming.report, by) + fit_claims_not_measured(claiming, "x")
        claims += detail_claims(claiming.report, claiming.report, by)
        Verification("one", claims).save(place / "verification.json", place / "verification.md")
        summarise(read_runs([folder, other]))

    return one


def comparisons():
    small = {"methods": ("flyp", "carot"), "rates": (1e-4, 1e-3), "seeds": (0, 1), "shifts": {"sketch": 0.5}}
    summary = summarise(made_up_comparison(**small, classes=("a", "b", "c"), predictions=True, draws=20))
    summary |= {"curves": {summary["winner"]["candidate"]: [[0.5, 0.5, 0.0], [0.6, 0.4, 1.0]]}, "command": "a b", "places": {"0": "carot"}}

    def one(draw, place):
        (place / "comparison.json").write_bytes(mangled_json(summary, draw))
        if found := breach(lambda: check_unclaimed(place, [])):
            raise RuntimeError(found)
        found = load_comparison(place)
        terminal_table(found)
        markdown_table(found)
        write_html(found, place / "comparison.html")
        if draw.random() < 0.2:
            # The picture takes most of the time.
            write_comparison(found, place / "again")
            assert load_comparison(place / "again") == found

    # What nothing was done to is read.
    assert json.loads(json.dumps(summary)) == summary and check_summary(summary) is None
    return one


def configs():
    class Parser(Manners, argparse.ArgumentParser):
        pass

    parser = Parser("program")
    parser.add_argument("--learning_rate", type=float)
    parser.add_argument("--eval_datasets", nargs="+")
    parser.add_argument("--options", type=dict)
    settings = {"learning_rate": 1e-3, "eval_datasets": ["a", "b"], "options": {"a": [1, {"b": 2}]}}
    bombs = (
        "a: &a [x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
        "options: &a {b: *a}",
        "options: !!python/object/apply:os.system ['touch evil']",
        "learning_rate: !!python/name:os.system",
        "options: {? [a, b] : c}",
        "options: {a: 2026-13-45}",
        "options: " + "[" * 5_000,
        "options: " + "{a: " * 500 + "1" + "}" * 500,
        "learning_rate: 1e-3\n---\nlearning_rate: 2\n",
        "options: {a: !!binary x, b: !!timestamp y, c: !!int z, d: !!float w}",
    )

    def one(draw, place):
        text = yaml.safe_dump(mangled_value(settings, draw), allow_unicode=True).encode()
        text = draw.choice((text, mangled_bytes(text, draw), draw.choice(bombs).encode()))
        (place / "config.yaml").write_bytes(text)
        read_config(parser, place / "config.yaml")

    return one


def names():
    text = "\ufeffn01\tcat\r\nn02\tdog\u2028x\nn03\tred_fox\n".encode()

    def one(draw, place):
        (place / "names.txt").write_bytes(mangled_bytes(text.replace(b"cat", draw.choice((b"cat", b"a {}", b"\0", b"{"))), draw))
        for reader in (load_class_names, load_templates):
            if found := breach(lambda reader=reader: reader(place / "names.txt")):
                raise RuntimeError(found)

    return one


def tensors():
    content = save(
        {"weight": torch.ones(4, 3), "logit_scale": torch.tensor(4.0)},
        {"class_names": json.dumps(["a", "b", "c", "d"]), "format": "pt", "label": "x", "kind": "linear"},
    )

    def one(draw, place):
        (place / "head.safetensors").write_bytes(mangled_safetensors(content, draw))
        for reader in (shapes_and_kinds, _whole, lambda path: load_head(path.parent)):
            if found := breach(lambda reader=reader: reader(place / "head.safetensors")):
                raise RuntimeError(found)

    return one


def checkpoints():
    torch.manual_seed(0)
    model, processor = CLIPModel(tiny_config()), tiny_processor()

    def one(draw, place):
        kind = draw.choice(("config.json", "config.json", "model.safetensors", "model.safetensors.index.json"))
        model.save_pretrained(place, **({"max_shard_size": "50KB"} if "index" in kind else {}))
        processor.save_pretrained(place)
        file = place / kind
        mangled = mangled_safetensors(file.read_bytes(), draw) if kind.endswith("tensors") else mangled_json(json.loads(file.read_text()), draw)
        file.write_bytes(mangled)
        loaded, of = load_checkpoint(place)
        # What is read works.
        loaded.train()(pixel_values=torch.zeros(1, 3, 32, 32), **of.tokenizer(["a cat"], return_tensors="pt"))

    return one


def features():
    facts = {name: 0 for name in _MADE} | {"views": 2, "rows": 3, "dtype": "float32", "transform": {"size": 32}, "format": 1}

    def one(draw, place):
        values = torch.ones(*draw.choice(((2, 3, 4), (2, 3, 5), (2, 3), (6, 4), (2, 3, 4, 1))), dtype=draw.choice((torch.float32, torch.float16, torch.int64)))
        if draw.random() < 0.3 and values.is_floating_point():
            values.view(-1)[draw.randrange(values.numel())] = draw.choice((float("nan"), float("inf")))
        # Who makes a file up can say what its digest is.
        said = {"facts": json.dumps(facts), "content": _content(values)}
        if draw.random() < 0.3:
            said["facts"] = mangled_json(facts, draw).decode("utf-8", "replace")
        content = save({draw.choice(("features", "features", "x")): values}, said)
        (place / "features.safetensors").write_bytes(mangled_safetensors(content, draw) if draw.random() < 0.5 else content)
        found = _read(place / "features.safetensors", facts, 4, False)
        assert found.shape == (2, 3, 4) and found.dtype == torch.float32 and found.isfinite().all()

    return one


def predictions():
    names = np.array(["a", "b", "c"] * 4)
    number = np.linspace(0.1, 0.9, 12)
    kept = {"row": np.arange(12), "predicted": names, "confidence": number, "scores": {"energy": number}}
    sets = [SetPredictions(name, role, **kept, label=names[::-1], nll=number, brier=number) for name, role in (("photo", "id"), ("sketch", "shift"))]
    sets.append(SetPredictions("unseen", "open_set", **kept, group=names))

    def one(draw, place):
        path = Predictions({item.name: item for item in sets}).save(place)
        if draw.random() < 0.4:
            path.write_bytes(mangled_bytes(path.read_bytes(), draw))
        else:
            pq.write_table(mangled_table(pq.read_table(path), draw), path)
        for item in load_predictions(place).sets.values():
            if item.label is not None:
                item.metrics()
                risk_coverage([item])
                worst_mistakes([item])

    return one


def lists():
    """What a comparison reads of runs on lists of labels."""

    def one(draw, place):
        folder, other = finished_on_lists(place / "one", n=12), finished_on_lists(place / "two", "lp", n=12, skill=0.5)
        path = draw.choice((folder / "evaluation.json", *sorted((folder / "logits").iterdir())))
        content = path.read_bytes()
        path.write_bytes(mangled_json(json.loads(content), draw) if path.suffix == ".json" else mangled_safetensors(content, draw))
        summarise(read_runs([folder, other]))

    return one


def _whole(path):
    with opened(path) as file:
        return [file.get_tensor(name) for name in file.keys()]


def tars():
    jpeg = encoded(picture(1), "JPEG")
    files = {f"{row:03}.{ending}": {"jpg": jpeg, "cls": b"1"}[ending] for row in range(6) for ending in ("jpg", "cls")}

    def one(draw, place):
        folder = place / "data"
        folder.mkdir()
        (folder / "train-0.tar").write_bytes(mangled_tar(files, draw))
        columns = own_columns(Spec.parse(str(folder)), {})
        benchmark = Benchmark(
            "own", "id", class_names=("a", "b", "c"), templates=("a {}.",), path=str(folder), split="train", streaming=True, **columns
        )
        for _, example in zip(range(8), benchmark.row_stream().dataset(), strict=False):
            decode_image(example["image"])

    return one


def cards():
    text = "---\nlicense: mit\ntags: [a, b]\nmodel-index:\n- name: x\n  results: []\n---\n# A\n\n![a](../../pic.png) ![b](b.png)\n"

    def one(draw, place):
        content = draw.choice((text.encode(), text.replace("mit", str(draw.choice(("!!python/name:os.system", "[", "&a *a", 5)))).encode()))
        (place / "README.md").write_bytes(mangled_bytes(content, draw))
        (place / "results.yaml").write_bytes(mangled_bytes(b"- dataset:\n    id: a/b\n    task_id: t\n  value: 1.0\n", draw))
        assert not any(name.startswith(("../", "/")) for name in pictures(place / "README.md"))
        claiming = ClaimingFolder(place, report(), {}, CardFacts("carot", (), ("a", "b"), ("a {}.",)))
        for reader in (lambda: _check_card(place / "README.md"), lambda: _check_results(place / "results.yaml"), lambda: card_claims(claiming)):
            if found := breach(reader):
                raise RuntimeError(found)

    return one


def answers():
    """What an interrupted `hf-robustft predict` has left, and lists of images."""
    classify = SimpleNamespace(
        transform=ImageTransform(8, (0.5,) * 3, (0.5,) * 3, train=False), device=torch.device("cpu"), model=SimpleNamespace(dtype=torch.float32),
        forward=lambda inputs: {"logits": inputs["pixel_values"].mean((2, 3))}, postprocess=_answer,
    )  # fmt: skip

    def one(draw, place):
        ending, images = draw.choice(("csv", "jsonl", "parquet")), [str(place / f"{number}.png") for number in range(3)]
        picture(1).save(images[0])
        files = AnswerFiles(place / f"out.{ending}")
        record = {"hf_robustft": __version__, "the model": "x"}
        with locked(files.folder):
            files.begin(record, images)
            files.add([_answer({"image": name, "error": None}) for name in images[:2]], 0, Place(2, 0, 2))
            if draw.random() < 0.4:
                files.add([_answer({"image": images[2], "error": "gone"})], 2, Place(3, 0, 3))
                files.write(Columns.of(files.answers()))
            for path in draw.sample(kept := [path for path in files.folder.iterdir() if path.suffix != f".{ending}"], draw.randint(1, len(kept))):
                content = path.read_bytes()
                path.write_bytes(mangled_json(json.loads(content), draw) if path.suffix == ".json" and draw.random() < 0.7 else mangled_bytes(content, draw))
        if found := breach(lambda: summary(predict(classify, images, files.output, record={"the model": "x"}, progress=False), "out")):
            raise RuntimeError(found)
        # What is damaged is in nobody's way.
        predict(classify, images, files.output, record={"the model": "y"}, progress=False, overwrite=True)
        if ending == "jsonl":
            assert [json.loads(line)["image"] for line in files.output.read_text().splitlines()] == images
        names = mangled_bytes(draw.choice((b"a.png\nb c.png\r\n", b"a\0b\nc\0", b"\xff.png\n")), draw)
        if found := breach(lambda: listed_images(names, "list")):
            raise RuntimeError(found)

    return one


def _answer(outputs, **options):
    answer = {"label": "cat", "probability": 0.5, "score": 1.0, "is_known": True, "nearest_class": "cat"}
    return {"image": outputs["image"], **(answer if outputs["error"] is None else dict.fromkeys(answer)), "error": outputs["error"]}


def watches():
    """What `hf-robustft watch` goes on from, mostly with hashes that fit: who makes a file up can make these too."""
    torch.manual_seed(0)
    embeds, values = torch.nn.functional.normalize(torch.randn(48, 8), dim=1), torch.rand(48).double()
    names, known = [f"{number}.png" for number in range(48)], [True, False] * 24
    reference = Reference.of(names[:24], ["cat", "dog"] * 12, embeds[:24], values[:24], values[:24].clone(), known[:24], seed=0)
    broken = {"b.png": {"error": "no image", "size": 3, "time": 10**18, "after": 2}}

    def one(draw, place):
        folder = place / "out"
        picture(1).save(place / names[24])

        def go_on(watched, start, end):
            part = slice(start, end)
            watched.stream.add(watched.reference, names[part], ["cat"] * (end - start), known[part], embeds[part], values[part], values[part])
            judgement = judge(watched.reference, watched.stream, 0.01, 0, [facts["after"] for facts in watched.broken.values()])
            save_watch(folder, watched, judgement.report, as_html(judgement, watched, place))

        go_on(Watched({"MODEL": "m", "--seed": 0}, reference, Stream(embeds[:0]), dict(broken)), 24, 34)
        path = draw.choice([path for path in sorted(folder.iterdir()) if path.name.startswith("watch") and path.suffix != ".html"])
        content = path.read_bytes()
        if path.suffix == ".jsonl":
            lines = content.splitlines(keepends=True)
            at = draw.randrange(len(lines))
            lines[at] = mangled_json(json.loads(lines[at]), draw) + b"\n"
            mangled = b"".join(lines) if draw.random() < 0.7 else mangled_bytes(content, draw)
        else:
            mangled = mangled_json(json.loads(content), draw) if path.suffix == ".json" else mangled_safetensors(content, draw)
        path.write_bytes(mangled)
        if path.suffix != ".json" and draw.random() < 0.8:
            facts = json.loads((folder / "watch.json").read_text())
            facts["files"][path.name] = hashlib.sha256(mangled).hexdigest()
            (folder / "watch.json").write_text(json.dumps(facts))
        if (watched := load(folder)) is not None:
            go_on(watched, 34, 40)
            assert load(folder).stream.names == watched.stream.names

    return one


def spaces():
    """What the page of a Space reads beside its model."""
    torch.manual_seed(0)
    file = io.BytesIO()
    picture(1).save(file, "WEBP")
    embeds = torch.nn.functional.normalize(torch.randn(6, 8), dim=1)
    nearest = NearestImages("validation", embeds, [f"{i}.png" for i in range(6)], ["cat", None] * 3, [file.getvalue()] * 6)
    facts = {"format": SPACE_FORMAT, "hf_robustft": "1", "name": "m", "model": None, "revision": None, "files": ["app.py"]}
    facts |= {"class_names": ["cat"], "templates": None, "top_k": 5, "nearest": True}

    def one(draw, place):
        path = nearest.save(place / "nearest.safetensors")
        path.write_bytes(mangled_safetensors(path.read_bytes(), draw))

        def look():
            found = NearestImages.load(path)
            Demo.as_html(SimpleNamespace(nearest=found), Answered(dict(ANSWER), found.of(torch.zeros(found.embeds.shape[1]), 3)))

        if found := breach(look):
            raise RuntimeError(found)
        (place / SPACE_FILE).write_bytes(mangled_json(facts, draw) if draw.random() < 0.7 else mangled_bytes(json.dumps(facts).encode(), draw))
        for call in (lambda: check_space_folder(place), lambda: space_facts(read_json_object(place / SPACE_FILE), place)):
            if found := breach(call):
                raise RuntimeError(found)

    return one


ANSWER = {"label": "cat", "probability": 0.5, "is_known": True, "nearest_class": "cat", "classes": [{"label": "cat", "score": 0.5}], "error": None}
KINDS = {
    **{"images": images, "folders": folders, "comparisons": comparisons, "configs": configs},
    **{"names": names, "tensors": tensors, "features": features, "predictions": predictions, "lists": lists, "tars": tars, "cards": cards},
    **{"checkpoints": checkpoints, "answers": answers, "watches": watches, "spaces": spaces},
}


def tried(kind, seeds, root, monkeypatch) -> list[str]:
    """What of the contract was broken, by seed."""
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, str(2**20))
    monkeypatch.chdir(root)
    one = KINDS[kind]()
    before, found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for seed in seeds:
        place = root / f"{seed}"
        place.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrong = breach(lambda place=place, seed=seed: one(random.Random(f"{kind} {seed}"), place))
        if wrong is not None:
            found.append(f"{kind} {seed}: {wrong}")
    assert not [path for path in root.iterdir() if not path.name.isdigit()], "something was written outside"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, "kilobytes"
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
def test_made_up_files_end_in_one_line(tmp_path, monkeypatch, kind):
    assert tried(kind, range(FEW), tmp_path, monkeypatch) == []


@pytest.mark.parametrize("kind, seeds", {"tars": (14, 25), "predictions": (229, 246), "features": (82,), "checkpoints": (223,)}.items())
def test_what_was_found_stays_mended(tmp_path, monkeypatch, kind, seeds):
    assert tried(kind, seeds, tmp_path, monkeypatch) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_many_made_up_files_end_in_one_line(tmp_path, monkeypatch, kind, capsys):
    count = int(os.environ.get("HF_ROBUSTFT_FUZZ", 300))
    found = tried(kind, range(FEW, FEW + count), tmp_path, monkeypatch)
    with capsys.disabled():
        print(f"\n{kind}: {count} tried, {len(found)} broke the contract")
    assert found == []


def test_the_contract_would_be_broken(tmp_path):
    assert breach(lambda: [][1]) and breach(lambda: Path("x").nothing) and breach(lambda: (_ for _ in ()).throw(ValueError("")))
    assert breach(lambda: int("x")) is None and breach(lambda: Path(tmp_path / "x").read_text()) is None
