# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A card says what was measured, in a form that the Hub reads, and its code runs as printed."""

import re
import shutil
import warnings

import pytest
import torch
import yaml
from helpers import CLASSES, TEMPLATES, tiny_processor
from helpers.cards import NASTY, SETS, TOKEN, benchmark, html, python_blocks, report, run, tables, tokens
from huggingface_hub import ModelCard
from PIL import Image

from hf_robustft.data.benchmarks import EMOJI_CLIP_DIR, Benchmark, load_benchmark
from hf_robustft.evaluation.report import TRAINED_HEAD, EvaluationReport
from hf_robustft.modeling.features import encode_images
from hf_robustft.modeling.zero_shot import ZeroShotHead
from hf_robustft.objectives.papers import METHOD_FACTS, Paper
from hf_robustft.publishing.metadata import write_robustft_json
from hf_robustft.publishing.model_card import write_model_card
from hf_robustft.publishing.text import one_line
from hf_robustft.training.methods import METHODS


@pytest.fixture(scope="module")
def data():
    return [benchmark(name, role, licence="CC0-1.0", source="https://example.org/x_y") for name, role in SETS]


@pytest.fixture
def write(tmp_path, data):
    """Write a card with the given facts; returns its path."""

    def write(**facts):
        given = {"report": report(), "method": "carot", "data": data, "settings": {"learning_rate": 1e-5}, "seed": 7}
        return write_model_card(tmp_path / "my-clip", **{**given, **facts})

    return write


# ---- Numbers and metadata ------------------------------------------------------------------------------------------


def test_the_table_holds_every_number_with_the_baseline_above(write):
    path = write(
        report=report(accuracy=0.75), baseline=report("zero-shot", accuracy=0.5, ece=0.0666, nll=2.0, brier=1.0)
    )
    rows = tables(path)[0]
    before = ["400", "50.0 ± 2.3", "6.7 (3.1)", "2.000", "1.000"]
    after = ["400", "75.0 ± 2.3", "12.3 (3.1)", "1.250", "0.625"]
    assert rows[0] == ["Set", "Model", "Images", "Accuracy %", "ECE % (floor)", "NLL", "Brier"]
    assert rows[1:3] == [["photo (ID)", "zero-shot", *before], ["", "CaRot", *after]]
    assert rows[3:5] == [["sketch", "zero-shot", *before], ["", "CaRot", *after]]
    assert rows[7] == ["mean of 2 shifts", "zero-shot", "", "50.0", "6.7", "2.000", "1.000"]
    assert rows[8] == ["", "CaRot", "", "75.0", "12.3", "1.250", "0.625"]


def test_the_mean_counts_each_shift_once_and_needs_the_same_shifts_in_the_baseline(write):
    fine_tuned = report()
    fine_tuned.results["cartoon"].accuracy = 0.7
    fine_tuned.results["cartoon"].n = 4000
    before = report("zero-shot", (("photo", "id"), ("sketch", "shift")))
    rows = tables(write(report=fine_tuned, baseline=before))[0]
    assert [row for row in rows if row[0].startswith("mean")] == [
        ["mean of 2 shifts", "CaRot", "", "60.0", "12.3", "1.250", "0.625"]
    ]
    assert [row[1] for row in rows if row[0] == "cartoon"] == ["CaRot"]


def test_the_card_states_conventions_spectrum_run_and_papers(write):
    text = write(
        baseline=report("zero-shot"), hardware="2 cores", wall_seconds=733.2, notes=["Small drawings only."]
    ).read_text()
    for fact in (
        "15 equal-width bins over the whole set, bins closed on\n  the left, a confidence of exactly 1.0 in its own bin",
        "learned logit scale, 14.28",
        "embeddings of photo: 1.234e-05 (zero-shot: 1.234e-05), from n = 400 images in 16 dimensions",
        "- Seed: 7\n- Hardware: 2 cores\n- Wall time of training: 12 min 13 s",
        "No claim is made about images of none of the classes",
        "- Small drawings only.",
        "one bootstrap standard error (1000 draws)",
        "arXiv:2311.01723",
        "arXiv:2212.00638",
        "torch 9.9.9",
    ):
        assert fact in text, fact


def test_settings_data_and_licences_are_tables(write):
    path = write(settings={"learning_rate": 2.5e-5, "bf16": True, "lr_scheduler_type": "cosine"})
    _, settings, sets = tables(path)
    assert settings[1:] == [["learning_rate", "2.5e-05"], ["bf16", "True"], ["lr_scheduler_type", "cosine"]]
    assert sets[1] == ["train", "training", "8", "4", "https://example.org/x_y", "CC0-1.0"]
    assert sets[2][:3] == ["photo", "test, in distribution", "400"]
    assert "All settings are at their defaults." in write(settings={}).read_text()


def test_the_metadata_round_trips_through_the_hub_library(write):
    measured = report(accuracy=1 / 3)
    loaded = ModelCard.load(write(report=measured, licence="mit")).data
    assert (loaded.license, loaded.library_name, loaded.pipeline_tag) == (
        "mit",
        "transformers",
        "zero-shot-image-classification",
    )
    assert {"hf_robustft", "carot", "calibration", "robustness"} <= set(loaded.tags)
    assert loaded.model_name == "my-clip"
    found = {(item.dataset_name, item.metric_type): item for item in loaded.eval_results}
    assert len(found) == len(loaded.eval_results) == 3 * 4
    for name, row in measured.results.items():
        assert found[name, "accuracy"].metric_value == row.accuracy
        assert found[name, "expected_calibration_error"].metric_value == row.ece
        assert found[name, "nll"].metric_value == row.nll
        assert found[name, "brier_score"].metric_value == row.brier
        convention = found[name, "expected_calibration_error"].metric_args
        assert (convention["n_bins"], convention["norm"]) == (15, "l1")
        assert convention["bins"] == "equal width, closed on the left; confidence 1.0 has its own bin"
        assert {item.task_type for item in loaded.eval_results} == {"zero-shot-image-classification"}


def test_sets_of_a_suite_and_of_the_hub_are_named_as_such(write):
    sets = [
        benchmark("photo", "id", suite="pictures"),
        Benchmark(
            name="sketch", role="shift", class_names=CLASSES, path="owner/sketches", split="test", revision="v1"
        ),
        Benchmark(
            name="cartoon", role="shift", class_names=CLASSES, path="owner/sketches", split="test", revision="v1"
        ),
        Benchmark(name="train", role="train", class_names=CLASSES, path="owner/photos"),
    ]
    card = ModelCard.load(write(data=sets)).data
    results = {item.dataset_name: item for item in card.eval_results}
    assert (results["pictures: photo"].dataset_type, results["pictures: photo"].dataset_config) == (
        "pictures",
        "photo",
    )
    sketch = results["sketch"]
    assert (sketch.dataset_type, sketch.dataset_split, sketch.dataset_revision) == ("owner/sketches", "test", "v1")
    assert results["cartoon"].dataset_type == "cartoon", "two sets must not be merged into one"
    assert card.datasets == ["owner/photos"]


def test_base_model_is_metadata_only_if_it_is_a_hub_id(write, tmp_path, monkeypatch):
    card = ModelCard.load(write(base_model="openai/clip-vit-base-patch16"))
    assert (card.data.base_model, card.data.base_model_relation) == ("openai/clip-vit-base-patch16", "finetune")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "clip").mkdir(parents=True)
    for local in ("runs/clip", str(tmp_path / "runs" / "clip"), "./clip", "emoji_clip", "a/b/clip", "~/clip"):
        card = ModelCard.load(write(base_model=local))
        assert "base_model" not in yaml.safe_load(card.content.split("---")[1]), local
        assert "The CLIP model `" + local.split("/")[-1] + "`" in card.text, local
        assert str(tmp_path) not in card.content


# ---- Methods -------------------------------------------------------------------------------------------------------


def test_every_method_of_the_package_has_its_facts():
    assert set(METHODS) <= set(METHOD_FACTS)
    for method, trainer in METHODS.items():
        facts = METHOD_FACTS[method]
        assert (trainer.label, trainer.paper, trainer.summary) == (facts.label, facts.papers, facts.summary)


def test_a_paper_writes_its_bibtex_entry_and_its_short_reference():
    authors = "Oh, Changdae and van den Berg, Kim Jong and Hauptmann, Alexander Georg and Cheng, Zhi-Qi"
    given = {"name": "X", "title": "CRoFT for OOD: Open-Set Fine-Tuning", "venue": "ICML 2024", "arxiv": "1.2", "key": "k"}
    whole = Paper(author=authors, booktitle="ICML Proceedings", series="PMLR", volume="235", **given)
    assert whole.authors == "Oh et al."
    assert whole.bibtex == """\
@inproceedings{k,
  title     = {{CRoFT} for {OOD}: Open-Set Fine-Tuning},
  author    = {Oh, Changdae and van den Berg, Kim Jong and Hauptmann, Alexander Georg and
               Cheng, Zhi-Qi},
  booktitle = {ICML Proceedings},
  series    = {PMLR},
  volume    = {235},
  year      = {2024},
}"""
    preprint = Paper(author="Li, Xuhong and Grandvalet, Yves", **given)
    assert preprint.authors == "Li and Grandvalet"
    assert preprint.bibtex.startswith("@article{k,") and "  journal   = {arXiv preprint arXiv:1.2},\n" in preprint.bibtex


def test_a_card_says_of_another_method_what_its_trainer_says(write, monkeypatch):
    monkeypatch.setitem(METHOD_FACTS, "mine", None)
    paper = METHOD_FACTS["flyp"].papers[0]
    facts = {"method": "mine", "label": "FLYP and mine", "paper": (paper,), "summary": "It does more."}
    trainer = type("MineTrainer", (METHODS["flyp"],), facts)
    text = write(report=report("mine"), method="mine").read_text()
    assert "fine-tuned with FLYP and mine on train," in text and "It does more." in text and paper.title in text
    # A method that says nothing has its own name, and not the label of the class that it is derived from.
    assert type("Other", (trainer,), {"method": "other"}).label == "other"
    assert type("Same", (trainer,), {}).label == "FLYP and mine"


def test_a_trained_head_is_announced_and_its_code_is_printed_only_with_its_file(write, tmp_path):
    fine_tuned = report("ft", head=TRAINED_HEAD)
    path = write(report=fine_tuned, method="ft")
    text = path.read_text()
    assert (
        "**The results on photo, sketch, cartoon belong to a trained linear head,** which is in `head.safetensors`"
        in text
    )
    assert "- Zero-shot probabilities come from" in text and "head holds its scale in its weights" in text
    assert "does not use it" in text and len(python_blocks(path)) == 2
    assert {item.task_type for item in ModelCard.load(path).data.eval_results} == {"image-classification"}
    ZeroShotHead(torch.eye(4, 16), CLASSES).save_pretrained(path.parent)
    assert len(python_blocks(write(report=fine_tuned, method="ft"))) == 3


def test_wise_ft_says_alpha_and_head(write):
    text = write(method="wise_ft", alpha=0.3).read_text()
    assert (
        "alpha = 0.3. Head of the results above: zero-shot prompts, rebuilt from the interpolated text tower;" in text
    )
    with pytest.raises(ValueError, match="give alpha"):
        write(method="wise_ft")


def test_a_merged_model_says_of_what(write):
    merge = {"fine_tuned": ["ft-0", "ft-1"], "head": "interpolated"}
    text = write(method="model_stock", base_model="a/b", merge=merge).read_text()
    assert "Fine-tuned: `ft-0`, `ft-1`. Head of the results above:" in text and "jang2024model" in text
    merge = {"fine_tuned": ["ft-0", "a/ft-1"], "fine_tuned_revisions": {"a/ft-1": "abc"}, "head": "interpolated"}
    text = write(method="model_stock", base_model="a/b", merge=merge).read_text()
    assert "Fine-tuned: `ft-0`, `a/ft-1` (revision `abc`)." in text
    merge = {"trained_with": "carot", "head": "rebuilt", "alpha": 0.2, "alpha_rule": "best validation accuracy of 0.2, 1"}
    text = write(method="lines", merge={**merge, "whole_projections": True}).read_text()
    assert "alpha = 0.2 of the change of the first layers is kept, and all of the projections'." in text
    assert "trained with CaRot in the same run. This alpha has the best validation accuracy of 0.2, 1." in text
    text = write(method="wise_ft", alpha=0.2, merge={**merge, "alpha_rule": "given"}).read_text()
    assert "with alpha = 0.2. The fine-tuned model was trained with CaRot in the same run. Head" in text


def test_an_untrained_model_is_not_called_fine_tuned(write):
    path = write(report=report("zero-shot"), method="zero_shot", base_model="openai/clip-vit-base-patch16")
    text = path.read_text()
    assert ", not fine-tuned, labels 50.0 %" in text and "one run" not in text and "relation" not in text
    assert [row[0] for row in tables(path)[-1]] == ["Set", "photo", "sketch", "cartoon"]


def test_an_own_method_needs_no_papers(write):
    text = write(report=report("mine"), method="mine").read_text()
    assert "fine-tuned with `mine` on train," in text and "## References" not in text


def test_the_paper_of_an_optimizer_is_cited_beside_those_of_the_method(write):
    plain, text = (write(settings=settings).read_text() for settings in ({}, {"optim": "spd"}))
    assert "arXiv:2311.01723" in text and "arXiv:2411.01713" in text and "arXiv:2411.01713" not in plain


# ---- Hostile values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nasty", NASTY)
def test_no_value_can_break_out_of_its_place(write, nasty):
    name = re.sub(r"[\s/]", "", nasty)
    facts = {"licence": nasty, "source": nasty, "note": nasty, "suite": nasty}
    classes = (nasty, "cat", "dog")
    sets = [benchmark(name, "id", classes, **facts), benchmark("train", "train", classes, **facts)]
    path = write(
        report=report(nasty, ((name, "id"), ("sketch", "shift"))),
        baseline=report(nasty, ((name, "id"), ("sketch", "shift"))),
        method=nasty,
        data=sets,
        settings={nasty: nasty, "list": [nasty]},
        base_model=nasty,
        base_model_note=nasty,
        hardware=nasty,
        licence=nasty,
        notes=[nasty],
    )
    assert html(path) == []
    results, settings, rows = tables(path)
    assert (
        {len(row) for row in results} == {7}
        and {len(row) for row in settings} == {2}
        and {len(row) for row in rows} == {6}
    )
    assert results[1][0] == f"{name} (ID)" and results[1][1] == one_line(nasty)
    assert settings[1] == [one_line(nasty)] * 2
    assert rows[1][0] == f"{one_line(nasty)}: {name}" and rows[1][4:] == [one_line(nasty)] * 2
    links = [child for token in tokens(path) for child in token.children or [] if child.type == "link_open"]
    assert all(link.attrs["href"].startswith("https://arxiv.org/") for link in links)
    metadata = ModelCard.load(path).data
    assert metadata.license == one_line(nasty) and one_line(nasty) in metadata.tags
    assert {item.dataset_config for item in metadata.eval_results} == {name, None}
    namespace = {}
    exec(next(line for line in python_blocks(path)[0].splitlines() if line.startswith("candidate_labels")), namespace)
    assert namespace["candidate_labels"] == list(sets[0].class_names)


def test_braces_in_a_template_survive_the_pipelines_format(write):
    path = write(data=[benchmark(templates=("a {kind} of {}, {x",))])
    namespace = {}
    exec(next(line for line in python_blocks(path)[0].splitlines() if line.startswith("template")), namespace)
    assert namespace["template"].format("cat") == "a {kind} of cat, {x"


def test_machine_paths_and_tokens_stay_here(write, tmp_path):
    settings = {
        "output_dir": "/home/me/out",
        "logging_dir": "/home/me/logs",
        "hub_token": TOKEN,
        "hub_model_id": "me/private",
        "resume_from_checkpoint": "/home/me/out/checkpoint-5",
        "run_name": "secret-run",
        "data": "/home/me/my pictures/photos",
        "windows": r"C:\Users\me\photos",
        "learning_rate": 1e-5,
    }
    path = write(
        report=report("/home/me/out/carot"),
        settings=settings,
        base_model="/home/me/models/clip-b16",
        base_model_note=f"Read from /home/me/models/clip-b16 with {TOKEN}.",
        hardware="ssh me: /home/me/gpu",
        notes=["See /home/me/notes.txt and https://example.org/a/b."],
        data=[benchmark(source="/home/me/pictures", note="Copied from ~/pictures/raw."), benchmark("train", "train")],
        command=f"HF_TOKEN={TOKEN} /home/me/venv/bin/python train.py --hub_token {TOKEN} --images=/home/me/photos "
        f"--data '/home/me/my photos' --output_dir {tmp_path}/run --hub-token={TOKEN} --learning_rate 1e-5",
    )
    text = path.read_text()
    for private in ("/home", "Users", "hf_a", "secret-run", "me/private", "checkpoint-5", str(tmp_path), "~"):
        assert private not in text, private
    assert "See notes.txt and https://example.org/a/b." in text
    command = " ".join(text.replace("\\\n", "").split())
    assert (
        "# <your folder> stands for a path that is not published. python train.py '--images=<your folder>/photos' "
        "--data '<your folder>/my photos' --output_dir '<your folder>/run' --learning_rate 1e-5" in command
    )
    assert [row[0] for row in tables(path)[1][1:]] == ["data", "windows", "learning_rate"]
    assert [row[1] for row in tables(path)[1][1:]] == ["photos", "photos", "1e-05"]


# ---- Files ---------------------------------------------------------------------------------------------------------


def test_the_picture_is_shown_only_if_it_is_there(write):
    path = write()
    assert "](reliability.png)" not in path.read_text()
    (path.parent / "reliability.png").write_bytes(b"png")
    assert "](reliability.png)" in write().read_text()


def test_an_untouched_card_is_renewed_and_an_edited_one_is_kept(write):
    path = write()
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert write(seed=8) == path and "Seed: 8" in path.read_text()
    edited = path.read_text().replace("Seed: 8", "Seed: eight")
    path.write_text(edited)
    with pytest.warns(UserWarning, match="edited by hand and is kept"):
        other = write(seed=9)
    assert other.name == "README.generated.md" and "Seed: 9" in other.read_text()
    assert path.read_text() == edited


@pytest.mark.parametrize("change", [lambda text: text + "PS\n", lambda text: "# Mine\n", lambda text: ""])
def test_any_other_readme_is_kept(write, change):
    path = write()
    path.write_text(change(path.read_text()))
    before = path.read_bytes()
    with pytest.warns(UserWarning, match="README.generated.md"):
        assert write().name == "README.generated.md"
    assert path.read_bytes() == before


def test_the_same_facts_give_the_same_bytes(write):
    assert write().read_bytes() == write().read_bytes()


def test_impossible_cards_are_refused(write):
    with pytest.raises(ValueError, match="no results"):
        write(report=EvaluationReport("carot", {}))
    with pytest.raises(ValueError, match="class names"):
        write(data=[])
    with pytest.raises(ValueError, match="list of benchmarks"):
        write(data=benchmark())
    with pytest.raises(ValueError, match="command is not a shell"):
        write(command="python train.py --note 'open")
    with pytest.raises(ValueError, match="300 images"):
        write(baseline=report("zero-shot", n=300))


# ---- The code in the card ------------------------------------------------------------------------------------------


def expected(model, processor, names, templates, head=None) -> torch.Tensor:
    head = head or ZeroShotHead.from_model(model, processor, names, templates)
    pixels = processor(images=Image.open("photo.png"), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        return head(encode_images(model, pixels)).softmax(dim=-1)[0]


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize("many", [True, False])
def test_the_code_runs_as_printed_and_gives_the_evaluated_probabilities(
    tiny_clip, write, tmp_path, monkeypatch, capsys, many, metadata
):
    names = tuple(f"{a}{b}" for a in "abcd" for b in "xyzq") if many else CLASSES
    folder = tmp_path / "my-clip"
    tiny_clip.save_pretrained(folder)
    processor = tiny_processor()
    processor.save_pretrained(folder)
    if metadata:
        write_robustft_json(folder, method="carot", class_names=names, templates=TEMPLATES, settings={})
    path = write(data=[benchmark(classes=names)])
    blocks = python_blocks(path)
    assert len(blocks) == 2 and ("robustft.json" in blocks[1]) == (many and metadata)
    pipeline, model = run(blocks, folder, monkeypatch)
    assert pipeline["candidate_labels"] == list(names[:4])
    want = expected(tiny_clip, processor, names, TEMPLATES)
    torch.testing.assert_close(model["probabilities"], want, rtol=1e-4, atol=1e-6)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 5 and printed[-1] == f"{want.max():.3f} {names[want.argmax()]}"


def test_stale_metadata_is_not_used_for_the_class_names(write, tmp_path):
    names = tuple(f"{a}{b}" for a in "abcd" for b in "xyzq")
    write_robustft_json(tmp_path / "my-clip", method="ft", class_names=names[::-1], templates=TEMPLATES, settings={})
    assert "robustft.json" not in python_blocks(write(data=[benchmark(classes=names)]))[1]


def test_the_trained_heads_code_runs(tiny_clip, write, tmp_path, monkeypatch):
    folder = tmp_path / "my-clip"
    tiny_clip.save_pretrained(folder)
    processor = tiny_processor()
    processor.save_pretrained(folder)
    head = ZeroShotHead(torch.randn(4, 16, generator=torch.Generator().manual_seed(1)), CLASSES, torch.arange(4.0))
    head.save_pretrained(folder)
    path = write(report=report("ft", head=TRAINED_HEAD), method="ft")
    found = run(python_blocks(path), folder, monkeypatch)[0]
    want = expected(tiny_clip, processor, CLASSES, TEMPLATES, head)
    torch.testing.assert_close(found["probabilities"], want, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(not (EMOJI_CLIP_DIR / "model.safetensors").is_file(), reason="the package ships no checkpoint")
def test_the_code_runs_on_the_packaged_checkpoint_and_benchmark(write, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "my-clip"
    shutil.copytree(EMOJI_CLIP_DIR, folder)
    noto = load_benchmark("emoji_shift", "noto")
    write_robustft_json(folder, method="carot", class_names=noto.class_names, templates=noto.templates, settings={})
    path = write(report=report(names=(("noto", "id"),)), data=[noto])
    blocks = python_blocks(path)
    _, model = run(blocks, folder, monkeypatch)
    assert len(model["probabilities"]) == len(noto.class_names) and len(capsys.readouterr().out.splitlines()) == 5
    assert f"are for all {len(noto.class_names)} class\nnames (in `robustft.json`)" in path.read_text()
