# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The parts of a card beyond the results: log, templates, heads, emissions, what is kept to write it again, Hub ids."""

import json
from dataclasses import replace

import pytest
import torch
from helpers import CLASSES, TEMPLATES, image_dataset, tiny_processor
from helpers.cards import TOKEN, benchmark, python_blocks, report, tables
from huggingface_hub import ModelCard

from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.data.columns import RowRule
from hf_robustft.data.streams.rows import RowStream
from hf_robustft.evaluation.detection import METRICS
from hf_robustft.evaluation.evaluator import Evaluator
from hf_robustft.evaluation.report import TRAINED_HEAD
from hf_robustft.modeling.interpolation import interpolate_weights
from hf_robustft.modeling.metadata import load_robustft_json, update_robustft_json
from hf_robustft.modeling.zero_shot import ZeroShotHead
from hf_robustft.publishing.card_facts import CardFacts
from hf_robustft.publishing.metadata import write_robustft_json
from hf_robustft.publishing.model_card import refresh_model_card, write_model_card

GIVEN = {"method": "carot", "settings": {"learning_rate": 1e-5}, "seed": 7}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "my-clip"
    write_robustft_json(folder, method="carot", class_names=CLASSES, templates=TEMPLATES, settings={})
    return folder


def write(folder, **facts):
    data = [benchmark("train", "train"), benchmark("photo", "id"), benchmark("sketch", "shift")]
    return write_model_card(folder, **{**GIVEN, "report": report(), "data": data, **facts})


# ---- Contents ------------------------------------------------------------------------------------------------------


def test_the_log_of_the_run_is_a_table(folder):
    log = [{"step": step, "loss": 3.0 / step, "loss/contrastive": 2.0 / step} for step in range(1, 4)]
    path = write(folder, log_history=log)
    assert tables(path)[2] == [
        ["Step", "Loss", "contrastive"], ["1", "3", "2"], ["2", "1.5", "1"], ["3", "1", "0.6667"],
    ]  # fmt: skip
    assert "The log of the run." not in write(folder).read_text()


@pytest.mark.parametrize(
    ("classes", "templates", "fact"),
    [
        (4, 3, "**The plain pipeline gives other probabilities than those measured above:** it takes one template, "),
        (
            20,
            3,
            "for the average of 3, and shares them among the labels that are given, where the results are for all 20",
        ),
        (20, 1, "the results above are for all 20 class names, not for a shorter list. As evaluated:"),
        (4, 1, "With one template and all class names these are the probabilities of the results above."),
    ],
)
def test_the_card_says_where_the_plain_pipeline_differs(folder, classes, templates, fact):
    names = tuple(f"thing {i}" for i in range(classes))
    path = write(folder, data=[benchmark(classes=names, templates=TEMPLATES[:templates])])
    assert fact in path.read_text().replace("\n", " ")
    assert ("tokenizer(prompts" in python_blocks(path)[1]) and len(python_blocks(path)) == 2


def test_the_table_of_data_says_roles_in_words_and_counts_what_was_measured(folder):
    measured = report(names=(("photo", "id"), ("sketch", "shift"), ("held", "validation")))
    measured.results["photo"].unreadable = {"count": 3, "of": 403, "first": ["row 1"]}
    row = {key: 0.5 for key in METRICS}
    measured.open_set = {
        "noise": {"n": 21, "id": "photo", "scores": {"energy": {**row, "shifts": {}, "correct_only": None}}},
    }
    data = [benchmark("train", "train"), benchmark("held", "validation"), benchmark("photo", "id")]
    data += [benchmark("sketch", "shift", suite="Drawings", licence="CC0-1.0", source="https://example.org/a")]
    data += [
        replace(benchmark("noise", "open_set"), class_names=(), label_column=None),
        benchmark("unknown", "open_set"),
    ]
    path = write(folder, report=measured, data=data)
    rows = tables(path)[-1]
    assert rows == [
        ["Set", "Part", "Images", "Classes", "Source", "Licence"],
        ["train", "training", "8", "4", "not stated", "not stated"],
        ["held", "validation", "400", "4", "not stated", "not stated"],
        ["photo", "test, in distribution", "400", "4", "not stated", "not stated"],
        ["Drawings: sketch", "test, shift", "400", "4", "https://example.org/a", "CC0-1.0"],
        ["noise", "open set", "21", "images of other classes", "not stated", "not stated"],
        ["unknown", "open set", "8", "4 others", "not stated", "not stated"],
    ]
    assert "photo: 3 of 403 images could not be read and are left out." in path.read_text()


def test_emissions_are_said_only_if_they_were_measured(folder):
    path = write(folder, emissions={"emissions": 12.5, "source": "codecarbon"})
    assert "- Emissions: 12.5 g of CO2 equivalent, measured by codecarbon\n" in path.read_text()
    assert ModelCard.load(path).data.to_dict()["co2_eq_emissions"] == {"emissions": 12.5, "source": "codecarbon"}
    assert "mission" not in write(folder).read_text()
    for wrong in ({"emissions": -1, "source": "x"}, {"emissions": 3.0}, {"emissions": "much", "source": "x"}):
        with pytest.raises(ValueError, match="grams of CO2"):
            write(folder, emissions=wrong)


def test_further_tags_go_into_the_metadata_once(folder):
    tags = ModelCard.load(write(folder, tags=["trackio", "clip", "trackio:https://a-b.hf.space"])).data.tags
    assert tags[-2:] == ["trackio", "trackio:https://a-b.hf.space"] and tags.count("clip") == 1


def test_the_pictures_are_shown_only_if_they_are_there_and_say_something(folder):
    assert "](shift.png)" not in write(folder).read_text()
    (folder / "shift.png").write_bytes(b"png")
    assert "](shift.png)" in write(folder).read_text()
    assert "](shift.png)" not in write(folder, report=report(names=(("photo", "id"),))).read_text()


def test_interpolated_heads_are_an_option_and_the_card_says_which_head_was_used(folder, tiny_clip):
    generator = torch.Generator().manual_seed(0)
    first, second = (ZeroShotHead(torch.randn(4, 16, generator=generator), CLASSES) for _ in range(2))
    mixed = interpolate_weights(first, second, 0.25)
    torch.testing.assert_close(mixed["weight"], 0.75 * first.weight + 0.25 * second.weight)
    head = ZeroShotHead(mixed["weight"], CLASSES, bias=mixed["bias"])
    data = Benchmark.from_dataset(image_dataset(12), name="photo", role="id", templates=TEMPLATES)
    measured = Evaluator([data], tiny_processor(), bootstrap_draws=10, progress=False).evaluate(tiny_clip, head=head)
    assert measured.results["photo"].head == TRAINED_HEAD
    text = write(folder, method="wise_ft", alpha=0.25, report=measured, data=[data]).read_text()
    assert "Head of the results above: the two models' heads, interpolated like the weights, as WiSE-FT's" in text


# ---- Writing it again ----------------------------------------------------------------------------------------------


def everything(folder, **changes):
    given = {
        "baseline": report("zero-shot"),
        "base_model": "openai/clip-vit-base-patch16",
        "base_model_note": "Small.",
        "hardware": "2 cores",
        "wall_seconds": 733.2,
        "command": "python train.py --learning_rate 1e-5",
        "notes": ["Drawings only."],
        "log_history": [{"step": 1, "loss": 2.0}],
        "emissions": {"emissions": 1.0, "source": "meter"},
        "tags": ["mine"],
    }
    return write(folder, **{**given, **changes})


def test_the_card_written_again_from_what_was_kept_is_the_same(folder):
    first = everything(folder).read_bytes()
    (folder / "README.md").unlink()
    assert refresh_model_card(folder, report(), report("zero-shot")).read_bytes() == first
    assert CardFacts.load(folder).base_model == "openai/clip-vit-base-patch16"


def test_new_results_are_in_the_card_written_again(folder):
    everything(folder)
    update_robustft_json(folder, temperature={"temperature": 1.0, "folded": 1.5})
    path = refresh_model_card(folder, report(accuracy=0.75), title="other")
    assert "- The logit scale has a temperature of 1.5 in it; the numbers above include it." in path.read_text()
    assert tables(path)[0][1][:4] == ["photo (ID)", "CaRot", "400", "75.0 ± 2.3"]
    assert ModelCard.load(path).data.model_name == "other" and "Wall time of training: 12 min 13 s" in path.read_text()


def test_what_is_kept_is_public(folder, tmp_path):
    private = Benchmark(
        name="val", role="validation", class_names=CLASSES, path="/home/me/pictures", note="See /home/me/x."
    )
    everything(
        folder,
        data=[private, benchmark("photo", "id"), benchmark("sketch", "shift")],
        base_model=str(tmp_path / "runs" / "clip"),
        hardware="ssh me: /home/me/gpu",
        settings={"output_dir": "x", "hub_token": TOKEN, "learning_rate": 1e-5},
        command=f"python /home/me/train.py --hub_token {TOKEN} --learning_rate 1e-5",
        notes=[f"Read with {TOKEN}."],
    )
    kept = (folder / "robustft.json").read_text()
    for secret in ("/home", "me/", TOKEN, str(tmp_path), "output_dir"):
        assert secret not in kept, secret
    assert CardFacts.load(folder).base_model == "clip"


def test_class_names_are_kept_twice_only_if_they_differ(folder):
    everything(folder)
    assert "class_names" not in load_robustft_json(folder)["card"]
    everything(folder, data=[benchmark("photo", "id", ("a", "b", "c")), benchmark("sketch", "shift")])
    assert load_robustft_json(folder)["card"]["class_names"] == ["a", "b", "c"]
    assert CardFacts.load(folder).class_names == ("a", "b", "c")


def test_a_folder_without_facts_or_with_broken_ones(folder):
    assert refresh_model_card(folder, report()) is None
    everything(folder)
    content = json.loads((folder / "robustft.json").read_text())
    for broken in ({"sets": [{"unknown": 1}]}, {"colour": "red"}):
        (folder / "robustft.json").write_text(json.dumps({**content, "card": {**content["card"], **broken}}))
        with pytest.raises(ValueError, match="incomplete or of another version"):
            refresh_model_card(folder, report())
    with pytest.raises(OSError, match="no robustft.json"):
        refresh_model_card(folder / "nowhere", report())


def test_a_stream_has_no_number_of_images(folder):
    rows = RowStream(None, RowRule("the photos"))
    stream = replace(benchmark("photo", "id"), dataset=None, path=str(folder), streaming=True, opened=rows)
    path = write(folder, data=[stream, benchmark("train", "train")], report=report(names=(("photo", "id"),)))
    assert tables(path)[-1][1][2] == "400", "the report knows how many were measured"
