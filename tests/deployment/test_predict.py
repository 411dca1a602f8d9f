# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`hf-robustft predict` writes what the pipeline answers, and goes on where it was: nothing lost, nothing twice."""

import csv
import io
import itertools
import json
import os
import re
import shutil
import tarfile
import threading
import warnings
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch
import transformers
from helpers import CLASSES, TEMPLATES
from helpers.broken_images import broken, encoded, picture
from helpers.families import save_family
from helpers.kills import ends_before
from test_pipeline import KEYS, N, trained_head

from hf_robustft import pipeline
from hf_robustft.cli import main
from hf_robustft.cli.predict import PredictOptions, chosen_images, identity
from hf_robustft.data.transforms import ImageTransform
from hf_robustft.deployment import predict as module
from hf_robustft.deployment.answer_tables import Columns, joined, save_answers
from hf_robustft.deployment.image_sources import named_images
from hf_robustft.deployment.predict import predict
from hf_robustft.files import locked
from hf_robustft.modeling.metadata import load_robustft_json, update_robustft_json
from hf_robustft.publishing.metadata import write_robustft_json

QUIET = ("--use_cpu", "--disable_tqdm")


def run(*words) -> int:
    return main(["predict", *map(str, words), *QUIET])


def rows(path) -> list[dict]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def left(path) -> list[str]:
    """What lies beside an output."""
    return sorted(item.name for item in path.parent.iterdir() if item.name.startswith("."))


# ---- Answers -------------------------------------------------------------------------------------------------------


def test_the_answers_are_those_of_the_pipeline(checkpoint, photos, tmp_path, capsys):
    (photos / "a" / "broken.jpg").write_bytes(b"no image")
    want = pipeline(checkpoint, batch_size=5)(photos, top_k=3)
    for ending in ("csv", "jsonl", "parquet"):
        assert run(checkpoint, photos, "--output", tmp_path / f"a.{ending}", "--top_k", 3, "--batch_size", 5) == 0
    # Same images, same batches, one thread: the same numbers.
    assert rows(tmp_path / "a.jsonl") == want
    assert [list(row) for row in rows(tmp_path / "a.parquet")] == [["image", "label", "probability", "nearest_class", "score", "is_known", "classes", "error"]] * (N + 1)
    assert rows(tmp_path / "a.parquet") == want
    table = rows(tmp_path / "a.csv")
    assert list(table[0]) == [*"image label probability nearest_class score is_known label_2 probability_2 label_3 probability_3 error".split()]
    for row, answer in zip(table, want, strict=True):
        cells = {name: "" if answer[name] is None else str(answer[name]) for name in KEYS}
        assert {name: row[name] for name in KEYS} == cells
        for place, item in enumerate((answer["classes"] or [])[1:], 2):
            assert (row[f"label_{place}"], float(row[f"probability_{place}"])) == (item["label"], item["score"])
    (bad,) = [row for row in table if row["error"]]
    assert bad["image"].endswith("broken.jpg") and "not an image" in bad["error"] and not bad["label"] + bad["label_2"]
    assert left(tmp_path / "a.csv") == []
    said = capsys.readouterr().out
    assert f"{N + 1} images" in said and "Unknown: 6 of 12 (50.0 %)" in said and f"read: 1, which the column error explains: '{bad['image']}'" in said


def test_who_asks_for_it_gets_an_error_for_broken_images(checkpoint, photos, tmp_path, capsys):
    assert run(checkpoint, photos, "--output", tmp_path / "a.csv", "--fail_if_broken") == 0
    (photos / "broken.jpg").write_bytes(b"no image")
    assert run(checkpoint, photos, "--output", tmp_path / "b.csv", "--fail_if_broken") == 2
    assert "--fail_if_broken`: 1" in capsys.readouterr().err and len(rows(tmp_path / "b.csv")) == N + 1


def test_all_labels_above_their_thresholds_are_answered(photos, tmp_path):
    folder = tmp_path / "siglip"
    save_family("siglip", folder)
    write_robustft_json(folder, method="flyp", class_names=CLASSES, templates=TEMPLATES, settings={})
    highest = [row["probability"] for row in pipeline(folder, require_detector=False, function_to_apply="sigmoid")(photos)]
    thresholds = {name: sorted(highest)[N // 2] for name in CLASSES}
    update_robustft_json(folder, thresholds={"classes": thresholds, "default": []})
    want = pipeline(folder, batch_size=64)(photos)
    assert {len(row["labels"]) > 0 for row in want} == {True, False}
    for ending in ("csv", "jsonl", "parquet"):
        assert run(folder, photos, "--output", tmp_path / f"a.{ending}", "--batch_size", 64) == 0
    assert rows(tmp_path / "a.jsonl") == rows(tmp_path / "a.parquet") == want
    for row, answer in zip(rows(tmp_path / "a.csv"), want, strict=True):
        assert row["labels"] == "|".join(item["label"] for item in answer["labels"])
        assert row["labels_probability"] == "|".join(str(item["score"]) for item in answer["labels"])


def test_batches_and_workers_change_nothing_but_rounding(checkpoint, photos, tmp_path):
    for name, batch_size, workers in (("one", 4, 0), ("two", 4, 2), ("whole", 64, 1)):
        run(checkpoint, photos, "--output", tmp_path / f"{name}.jsonl", "--batch_size", batch_size, "--num_workers", workers)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    for got, want in zip(rows(tmp_path / "whole.jsonl"), rows(tmp_path / "one.jsonl"), strict=True):
        assert (got["image"], got["label"], got["is_known"]) == (want["image"], want["label"], want["is_known"])
        assert (got["score"], got["probability"]) == pytest.approx((want["score"], want["probability"]), rel=1e-5)


def test_a_checkpoint_without_a_detector_says_so_once(checkpoint, photos, tmp_path, capsys):
    update_robustft_json(checkpoint, detector=None)
    with pytest.warns(UserWarning) as warned:
        assert run(checkpoint, photos, "--output", tmp_path / "a.csv") == 0
    assert ["has no detector" in str(item.message) for item in warned] == [True] and "Unknown" not in capsys.readouterr().out
    assert {row["score"] + row["is_known"] for row in rows(tmp_path / "a.csv")} == {""}
    assert run(checkpoint, photos, "--output", tmp_path / "b.csv", "--require_detector") == 2
    assert "no detector" in capsys.readouterr().err and not (tmp_path / "b.csv").exists() and left(tmp_path / "b.csv") == []


def test_other_classes_and_prompts_need_no_metadata(checkpoint, photos, tmp_path):
    (tmp_path / "names.txt").write_text("bee\ncat\n")
    (tmp_path / "prompts.txt").write_text("the {}.\n")
    (checkpoint / "robustft.json").unlink()
    assert run(checkpoint, photos, "--output", tmp_path / "a.jsonl", "--class_names", tmp_path / "names.txt", "--templates", tmp_path / "prompts.txt") == 0
    found = rows(tmp_path / "a.jsonl")
    want = pipeline(checkpoint, class_names=["bee", "cat"], templates=["the {}."], require_detector=False)(photos)
    assert [row["label"] for row in found] == [row["label"] for row in want] and {row["label"] for row in found} <= {"bee", "cat"}
    assert [row["probability"] for row in found] == pytest.approx([row["probability"] for row in want], rel=1e-6)
    # By Transformers' own pipeline, which knows one template.
    plain = transformers.pipeline("zero-shot-image-classification", str(checkpoint), image_processor=str(checkpoint), device="cpu")
    for row in found[:3]:
        (best, *_) = plain(row["image"], candidate_labels=["bee", "cat"], hypothesis_template="the {}.")
        assert (row["label"], row["probability"]) == (best["label"], pytest.approx(best["score"], rel=1e-4))


def test_the_detector_stays_with_the_same_classes_and_is_named_where_others_are_given(checkpoint, photos, tmp_path, capsys):
    for name, classes in (("same", CLASSES), ("turned", CLASSES[::-1])):
        (tmp_path / f"{name}.txt").write_text("\n".join(classes))
    (tmp_path / "prompts.txt").write_text("\n".join(TEMPLATES))
    own = pipeline(checkpoint)(photos)
    same = ("--class_names", tmp_path / "same.txt", "--templates", tmp_path / "prompts.txt", "--require_detector")
    for words in (same, (*same[:2], same[4])):
        assert run(checkpoint, photos, "--output", tmp_path / "a.jsonl", "--overwrite", *words) == 0
        assert [(row["label"], row["is_known"], row["score"]) for row in rows(tmp_path / "a.jsonl")] == [
            (row["label"], row["is_known"], pytest.approx(row["score"], rel=1e-5)) for row in own
        ]
    with pytest.warns(UserWarning, match="has a detector for its own classes"):
        assert run(checkpoint, photos, "--output", tmp_path / "b.csv", "--class_names", tmp_path / "turned.txt") == 0
    assert run(checkpoint, photos, "--output", tmp_path / "c.csv", "--class_names", tmp_path / "turned.txt", "--require_detector") == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "fitted for its own classes" in message and "calibrate" not in message


def test_a_trained_head_that_other_classes_take_the_place_of_is_named(checkpoint, photos):
    trained_head().save_pretrained(checkpoint)
    update_robustft_json(checkpoint, head="trained head", detector=None)
    want = pipeline(checkpoint, require_detector=False)(photos)
    same = pipeline(checkpoint, class_names=CLASSES, require_detector=False)
    assert same.trained_head and [row["probability"] for row in same(photos)] == pytest.approx([row["probability"] for row in want], rel=1e-5)
    with pytest.warns(UserWarning, match="trained head"):
        assert not pipeline(checkpoint, class_names=["bee", "cat"], require_detector=False).trained_head


def test_prompts_beside_a_trained_head_are_refused(checkpoint, photos, tmp_path, capsys):
    trained_head().save_pretrained(checkpoint)
    update_robustft_json(checkpoint, head="trained head", detector=None)
    (tmp_path / "prompts.txt").write_text("the {}.\n")
    assert run(checkpoint, photos, "--output", tmp_path / "a.csv", "--templates", tmp_path / "prompts.txt") == 2
    assert "templates" in capsys.readouterr().err


def test_several_values_share_a_cell_and_come_out_of_it():
    for names in (["a|b", "c\\", "\\|", ""], ["one"], ["|"], ["\\\\", "x"]):
        cell = joined(names)
        parts = [re.sub(r"\\(.)", r"\1", part) for part in re.findall(r"((?:\\.|[^\\|])*)(?:\||$)", cell)][: len(names)]
        assert parts == names, cell


def test_lists_of_labels_and_prediction_sets_are_columns(tmp_path):
    answers = [
        {"image": "1", "label": "a", "probability": 0.5, "score": None, "is_known": None, "nearest_class": "a",
         "labels": [{"score": 0.5, "label": "a|b"}, {"score": 0.25, "label": "c"}], "prediction_set": ["a|b", "c"], "new": 3, "error": None},
        dict.fromkeys(("label", "probability", "score", "is_known", "nearest_class", "labels", "prediction_set", "new")) | {"image": "2", "error": "no"},
    ]  # fmt: skip
    for ending in ("csv", "jsonl", "parquet"):
        save_answers(tmp_path / f"a.{ending}", lambda: iter(answers), Columns.of(answers))
    first, second = rows(tmp_path / "a.csv")
    assert list(first)[-5:] == ["labels", "labels_probability", "prediction_set", "new", "error"]
    assert (first["labels"], first["labels_probability"], first["prediction_set"], first["new"]) == ("a\\|b|c", "0.5|0.25", "a\\|b|c", "3")
    assert second == {**dict.fromkeys(first, ""), "image": "2", "error": "no"}
    assert rows(tmp_path / "a.parquet") == rows(tmp_path / "a.jsonl") == [dict(answer) for answer in answers]


# ---- Which images --------------------------------------------------------------------------------------------------


def test_folders_patterns_files_and_lists_name_the_same_images(checkpoint, photos, tmp_path, capsys, monkeypatch):
    files = sorted(map(str, photos.rglob("*.png")))
    (photos / "notes.txt").write_text("no image")
    (tmp_path / "lines.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n\n".join(files).encode() + b"\n")
    (tmp_path / "zeros").write_bytes(b"".join(os.fsencode(name) + b"\0" for name in files))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=open(tmp_path / "zeros", "rb")))
    ways = [[photos], files, [photos / "a", photos / "b"], [photos / "**"], [photos / "**" / "*.png"], [photos / "?", photos]]
    ways += [["--image_list", tmp_path / "lines.txt"], ["--image_list", tmp_path / "zeros"], ["--image_list", "-"]]
    for number, words in enumerate(ways):
        output = tmp_path / f"{number}.jsonl"
        with warnings.catch_warnings(record=True) as warned:
            # Options may stand between.
            assert run(checkpoint, "--output", output, *words) == 0, capsys.readouterr().err
        assert [str(item.message) for item in warned] == ["Not read: 1 file ending in .txt."] * (number in (0, 3, 5))
        assert [row["image"] for row in rows(output)] == files, words
    for words, said in (([photos / "*.jpg"], "fits no image"), ([tmp_path / "my-clip"], "no image in"), (["https://a.b/c.jpg"], "IMAGES")):
        assert run(checkpoint, *words, "--output", tmp_path / "no.csv") == 2
        assert said in capsys.readouterr().err and not (tmp_path / "no.csv").exists()


def test_what_cannot_be_read_is_a_row_with_its_error(checkpoint, photos, tmp_path, capsys):
    folder = tmp_path / "bad"
    folder.mkdir()
    for fault, (ending, content) in broken().items():
        path = folder / f"{fault}{ending}"
        path.mkdir() if fault == "folder" else path.write_bytes(content)
    (folder / "lost.png").symlink_to("nowhere.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "around").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    shutil.copy(photos / "a" / "00.png", folder / "good.png")
    names = [*sorted(map(str, folder.iterdir())), str(folder / "nowhere.jpg"), str(folder / ("long" * 100))]
    (tmp_path / "names.txt").write_text("\n".join(names))
    assert run(checkpoint, folder, "--output", tmp_path / "a.jsonl") == 0
    assert run(checkpoint, "--image_list", tmp_path / "names.txt", "--output", tmp_path / "b.jsonl") == 0
    for output, want in (("a.jsonl", len(broken()) + 2), ("b.jsonl", len(broken()) + 6)):
        found = rows(tmp_path / output)
        errors = [row for row in found if row["error"]]
        assert len(errors) == want and [row["image"] for row in found if not row["error"]] == [str(folder / "good.png")]
        assert all("\n" not in row["error"] and row["label"] is None and row["probability"] is None for row in errors)
    assert f"read: {len(broken()) + 6}," in capsys.readouterr().out


NAMES = (b"a\nb.png", b'say "cheese".png', b"=cmd|' C'!A0.png", b"+1.png", b"@SUM(A1).png", b"caf\xe9.png", b"-x.png", "猫.png".encode(), b"a,b;c.png")


def test_any_name_of_a_file_comes_back(checkpoint, photos, tmp_path, monkeypatch):
    folder = tmp_path / "names"
    folder.mkdir()
    for name in NAMES:
        shutil.copy(photos / "a" / "00.png", os.fsencode(folder) + b"/" + name)
    monkeypatch.chdir(folder)
    names = [os.fsdecode(name) for name in sorted(NAMES, key=os.fsdecode)]
    shown = [name.encode("utf-8", "backslashreplace").decode() for name in names]
    assert "caf\\udce9.png" in shown
    # What begins with a dash is not a flag behind two of them.
    for words, prefix in ((["*.png"], ""), ([folder], f"{folder}/"), (["--", *names], "")):
        for ending in ("csv", "jsonl", "parquet"):
            output = tmp_path / f"a.{ending}"
            assert main(["predict", str(checkpoint), "--output", str(output), "--overwrite", *QUIET, *map(str, words)]) == 0
            found = [row["image"] for row in rows(output)]
            if ending == "csv":
                assert all(cell[:1] not in "=+-@" for cell in found)
                found = [cell.removeprefix("'") if cell[1:2] in "=+-@" else cell for cell in found]
            assert found == [prefix + name for name in shown]


# ---- A data set ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["parquet", "parquet folder", "tars", "saved"])
def test_a_data_set_is_read_as_it_comes_and_from_any_place(kind, checkpoint, data, photos, tmp_path, capsys):
    want = pipeline(checkpoint, batch_size=5)(photos)
    stored, place = data.load(), tmp_path / "set"
    place.mkdir()
    if kind.startswith("parquet"):
        for number, part in enumerate((range(7), range(7, N)) if kind.endswith("folder") else (range(N),)):
            stored.select(part).to_parquet(place / f"test-{number}.parquet")
        word = place if kind.endswith("folder") else place / "test-0.parquet"
    elif kind == "saved":
        stored.save_to_disk(place)
        word = place
    else:
        for number, part in enumerate((range(7), range(7, N))):
            with tarfile.open(place / f"test-{number}.tar", "w") as tar:
                for row in part:
                    content = encoded(stored[row]["image"], "PNG")
                    info = tarfile.TarInfo(f"{row:04}.png")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        word = place
    assert run(checkpoint, word, "--output", tmp_path / "a.jsonl", "--batch_size", 5, "--num_workers", 2) == 0, capsys.readouterr().err
    found = rows(tmp_path / "a.jsonl")
    assert [row.pop("image") for row in found] == [f"{word}#{number}" for number in range(N)]
    assert found == [{name: value for name, value in row.items() if name != "image"} for row in want]
    source, given = chosen_images(PredictOptions(model="m", images=[str(word)], output="a.csv"))
    every = list(source.items())
    for number, (place, _, _) in enumerate(every):
        assert list(source.items(place)) == every[number + 1 :]
    assert given == chosen_images(PredictOptions(model="m", images=[str(word)], output="a.csv"))[1]


def test_a_set_of_the_registry_is_streamed(tmp_path, capsys):
    assert run("emoji_clip_carot", "emoji_shift", "--output", tmp_path / "a.csv") == 2
    assert "emoji_shift/" in capsys.readouterr().err
    items = module.DataRows.items
    with pytest.MonkeyPatch.context() as patch:
        # Of a thousand images a few.
        patch.setattr(module.DataRows, "items", lambda self, place: itertools.islice(items(self, place), 3))
        assert run("emoji_clip_carot", "emoji_shift/noto", "--output", tmp_path / "a.jsonl") == 0
    assert [row["image"] for row in rows(tmp_path / "a.jsonl")] == [f"emoji_shift/noto#{number}" for number in range(3)]


# ---- Interrupted and continued -------------------------------------------------------------------------------------


def classifier(answered: list | None = None):
    """Stands for a pipeline: answers without a model, and notes which images it was asked for."""

    def postprocess(outputs, **options):
        error = outputs["error"]
        if answered is not None:
            answered.append(outputs["image"])
        answer = {"label": "cat", "probability": float(outputs["logits"].sum()), "score": 1.0, "is_known": True, "nearest_class": "cat"}
        return {"image": outputs["image"], **(answer if error is None else dict.fromkeys(answer)), "error": error}

    return SimpleNamespace(
        transform=ImageTransform(8, (0.5,) * 3, (0.5,) * 3, train=False), device=torch.device("cpu"), model=SimpleNamespace(dtype=torch.float32),
        forward=lambda inputs: {"logits": inputs["pixel_values"].mean((2, 3))}, postprocess=postprocess,
    )  # fmt: skip


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(7):
        picture(number).save(folder / f"{number}.png")
    (folder / "3.png").write_bytes(b"broken")
    return sorted(map(str, folder.iterdir()))


def answer(files, output, answered=None, **options):
    settings = {"record": {"the model": "x"}, "batch_size": 2, "progress": False, **options}
    return predict(classifier(answered), files, output, **settings)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(module, "_ANSWERS", 1)


#: A text and a format that is written whole; the other text: `python -m pytest -m slow tests/deployment/test_predict.py`.
@pytest.mark.parametrize("ending", [pytest.param("csv", marks=pytest.mark.slow), "jsonl", "parquet"])
def test_killed_at_any_moment_it_goes_on(ending, files, tmp_path, small_parts):
    whole = tmp_path / f"whole.{ending}"
    answer(files, whole)
    killed, moment = 0, 1
    while True:
        folder = tmp_path / f"{moment}"
        folder.mkdir()
        output = folder / f"a.{ending}"
        if not ends_before(moment, lambda output=output: answer(files, output), folder):
            break
        parts = [path.name.split("-")[1] for path in (folder / f".a.{ending}.parts").glob("0*.jsonl")]
        done, answered = max(map(int, parts), default=0), []
        # Nothing is said to be there before it is whole.
        assert not output.exists() or output.read_bytes() == whole.read_bytes()
        finished = output.exists() and not parts
        if moment % 3 == 0 and not finished:
            # Once more, a little later.
            ends_before(1 + moment % 5, lambda output=output: answer(files, output), folder)
            parts = [path.name.split("-")[1] for path in (folder / f".a.{ending}.parts").glob("0*.jsonl")]
            done = max([done, *map(int, parts)])
        try:
            answer(files, output, answered)
        except ValueError as error:
            # It had ended, but for the lock of nobody.
            assert output.exists() and "--overwrite" in str(error), error
        else:
            assert answered in ([], files[done:])
        assert output.read_bytes() == whole.read_bytes(), moment
        assert sorted(path.name for path in folder.iterdir()) in ([output.name], [f".{output.name}.parts", output.name])
        killed, moment = killed + 1, moment + 1
    assert killed > 30


def test_an_interruption_keeps_what_was_answered(files, tmp_path):
    output, answered = tmp_path / "a.csv", []
    classify = classifier(answered)
    forward = classify.forward

    def stopping(inputs):
        if len(answered) == 4:
            raise KeyboardInterrupt
        return forward(inputs)

    classify.forward = stopping
    with pytest.raises(KeyboardInterrupt):
        predict(classify, files, output, record={"the model": "x"}, batch_size=2, progress=False)
    assert not output.exists() and answered == files[:4]
    found = answer(files, output, answered)
    assert answered == files and (found.answered, found.summary["images"]) == (3, 7)


def test_what_differs_is_named_and_nothing_is_mixed(files, tmp_path, small_parts):
    output = tmp_path / "a.jsonl"
    assert ends_before(14, lambda: answer(files, output), tmp_path)
    before = sorted(path.name for path in (tmp_path / ".a.jsonl.parts").iterdir())
    for record, words in (({"the model": "y"}, "the model x instead of y"), ({"the model": "x", "--top_k": 3}, "--top_k none instead of 3")):
        with pytest.raises(ValueError, match=f"--output.*{words}.*--overwrite"):
            answer(files, output, record=record)
    assert [name for name in before if "lock" not in name] == [path.name for path in sorted((tmp_path / ".a.jsonl.parts").iterdir()) if "lock" not in path.name]
    answered = []
    answer(files, output, answered, record={"the model": "y"}, overwrite=True)
    assert answered == files and left(output) == []
    with pytest.raises(ValueError, match="--output.*--overwrite"):
        answer(files, output)
    answer(files[:2], output, overwrite=True)
    assert len(rows(output)) == 2


def test_an_output_that_appeared_meanwhile_stays(files, tmp_path, small_parts):
    output = tmp_path / "a.jsonl"
    assert ends_before(14, lambda: answer(files, output), tmp_path)
    output.write_text("mine")
    with pytest.raises(ValueError, match="--overwrite"):
        answer(files, output)
    assert output.read_text() == "mine"
    answer(files, output, overwrite=True)
    assert [row["image"] for row in rows(output)] == files


def test_images_that_come_and_go_meanwhile(files, tmp_path, small_parts):
    output = tmp_path / "a.jsonl"
    assert ends_before(14, lambda: answer(files, output), tmp_path)
    new = tmp_path / "files" / "2b.png"
    shutil.copy(files[0], new)
    os.unlink(files[-1])
    with pytest.warns(UserWarning, match="1 image was added .*2b.png"):
        answer([*files[:2], str(new), *files[2:-1]], output)
    found = rows(output)
    assert [row["image"] for row in found] == files and "no image file" in found[-1]["error"]


@pytest.fixture(scope="module")
def moments():
    """The first moment at which three parts are there, once it was found: before it every test would try all from 1 on."""
    return {"of three parts": 1}


@pytest.mark.parametrize("damage", ["part", "gap", "record", "line", "list"])
def test_damaged_parts_are_named(damage, files, tmp_path, small_parts, moments):
    output, folder = tmp_path / "a.jsonl", tmp_path / ".a.jsonl.parts"
    while ends_before(moments["of three parts"], lambda: answer(files, output), tmp_path) and len(list(folder.glob("0*"))) < 3:
        shutil.rmtree(folder, ignore_errors=True)
        moments["of three parts"] += 1
    first, second, *_ = sorted(folder.glob("0*"))
    damaged = {"part": second, "gap": second, "record": folder / "run.json", "line": second, "list": folder / "images"}[damage]
    if damage == "gap":
        first.unlink()
    elif damage == "line":
        second.write_text("[]\n" * 2)
    else:
        damaged.write_text(damaged.read_text()[: len(damaged.read_text()) // 2])
    with pytest.raises(ValueError, match="(?s)damaged.*--overwrite") as error:
        answer(files, output)
    assert damaged.name in str(error.value) and not output.exists()
    answer(files, output, overwrite=True)
    assert [row["image"] for row in rows(output)] == files


def test_two_at_once_on_one_output(checkpoint, photos, tmp_path, capsys):
    output = tmp_path / "a.csv"
    held, over = threading.Event(), threading.Event()

    def holder():
        with locked(tmp_path / ".a.csv.parts", "hf-robustft predict"):
            held.set()
            over.wait(60)

    thread = threading.Thread(target=holder)
    thread.start()
    held.wait()
    assert run(checkpoint, photos, "--output", output) == 2
    over.set()
    thread.join()
    said = capsys.readouterr().err
    assert str(output) in said and "`hf-robustft predict` (process" in said and not output.exists()
    assert run(checkpoint, photos, "--output", output) == 0 and left(output) == []


def test_the_model_is_known_by_its_content(checkpoint, photos, tmp_path, capsys, monkeypatch):
    words = (checkpoint, photos, "--output", tmp_path / "a.csv", "--batch_size", 4)
    monkeypatch.setattr(module, "_ANSWERS", 1)
    calls = []
    add = module.AnswerFiles.add

    def interrupted(self, *given):
        add(self, *given)
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.AnswerFiles, "add", interrupted)
        assert run(*words) == 130
    assert "Go on with: hf-robustft predict" in capsys.readouterr().err
    facts = load_robustft_json(checkpoint)
    update_robustft_json(checkpoint, detector={**facts["detector"], "threshold": facts["detector"]["threshold"] + 1})
    assert run(*words) == 2 and "the model" in capsys.readouterr().err
    update_robustft_json(checkpoint, detector=facts["detector"])
    assert run(*words, "--top_k", 2) == 2 and "--top_k none instead of 2" in capsys.readouterr().err
    # Whoever runs out of memory may go on in smaller batches.
    assert run(*words[:-1], 2) == 0
    assert f"{N} images (8 of them before)" in capsys.readouterr().out
    want = pipeline(checkpoint, batch_size=4)(photos)
    assert [(row["image"], row["label"]) for row in rows(tmp_path / "a.csv")] == [(row["image"], row["label"]) for row in want]


def test_images_that_changed_after_they_were_answered_are_not_gone_on_with(checkpoint, photos, tmp_path, capsys, monkeypatch):
    """A camera writes files of the same names every day, and a command that was killed had given half of yesterday's answers."""
    words, files = (checkpoint, photos, "--output", tmp_path / "a.csv", "--batch_size", 1), sorted(photos.rglob("*.png"))
    files[0].write_bytes(b"no image")
    monkeypatch.setattr(module, "_ANSWERS", 1)
    add = module.AnswerFiles.add

    def interrupted(self, answers, before, after):
        add(self, answers, before, after)
        if after.count == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.AnswerFiles, "add", interrupted)
        assert run(*words) == 130
    # What could not be read says so, what is gone has its answer, and what was not answered is read as it is.
    shutil.copy(files[1], files[0])
    files[2].unlink()
    shutil.copy(files[1], files[5])
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(module.AnswerFiles, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(*words) == 130 and "changed since" not in capsys.readouterr().err
    # Of another machine, where the images were fetched once more.
    copies = {path: path.read_bytes() for path in files[:2] + files[3:]}
    for path, content in copies.items():
        path.unlink()
        path.write_bytes(content)
        os.utime(path, ns=(1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(module.AnswerFiles, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(*words) == 130 and "changed since" not in capsys.readouterr().err
    # As many bytes.
    files[3].write_bytes(copies[files[3]][:-1] + bytes([copies[files[3]][-1] ^ 1]))
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert "1 image that was answered before the interruption changed since" in error and files[3].name in error and "--overwrite" in error
    shutil.copy(files[1], files[3])
    assert run(*words, "--overwrite") == 0
    found = rows(tmp_path / "a.csv")
    assert [row["image"] for row in found] == [str(path) for path in files if path != files[2]] and "state" not in found[0]
    assert found[0]["score"] == found[2]["score"] == found[1]["score"]


def test_several_processes_are_refused(checkpoint, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(checkpoint, photos, "--output", tmp_path / "a.csv") == 2
    assert "one process" in capsys.readouterr().err


def test_relative_names_mean_files_of_the_directory_they_were_given_in(checkpoint, photos, tmp_path, capsys, monkeypatch):
    """The same words in another directory are other images: an interrupted command is not continued with those."""
    monkeypatch.setattr(module, "_ANSWERS", 1)
    for name in ("a", "b"):
        shutil.copytree(photos, tmp_path / name / "photos")
    listed = tmp_path / "list"
    listed.write_text("\n".join(f"photos/{path.relative_to(photos)}" for path in sorted(photos.rglob("*.png"))))
    for number, images in enumerate((["photos"], ["--image_list", listed])):
        words = (checkpoint, *images, "--output", tmp_path / f"{number}.csv", "--batch_size", 1)
        monkeypatch.chdir(tmp_path / "a")
        with monkeypatch.context() as patch:
            patch.setattr(module.AnswerFiles, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            assert run(*words) == 130
        monkeypatch.chdir(tmp_path / "b")
        capsys.readouterr()
        assert run(*words) == 2 and "working directory" in capsys.readouterr().err
        monkeypatch.chdir(tmp_path / "a")
        assert run(*words) == 0


def test_one_image_by_two_names_is_taken_once(photos, monkeypatch):
    monkeypatch.chdir(photos)
    name = str(next(path for path in sorted(photos.rglob("*.png"))).relative_to(photos))
    assert named_images([name, f"./{name}", name]) == ([name], "")


@pytest.mark.parametrize("command", ["predict", "evaluate", "export"])
def test_a_revision_of_a_model_that_is_here_is_refused(command, checkpoint, photos, tmp_path, capsys):
    more = {
        "predict": [photos, "--output", tmp_path / "a.csv"],
        "evaluate": ["--eval_datasets", "emoji_shift/noto", "--output_dir", tmp_path / "out"],
        "export": ["--output_dir", tmp_path / "out"],
    }[command]
    for model in (checkpoint, "emoji_clip_carot"):
        assert main([command, str(model), *map(str, more), "--revision", "x", "--use_cpu"]) == 2
        assert "`--revision x`" in capsys.readouterr().err


def test_data_that_changed_behind_a_link_or_took_another_name_are_other_data(tmp_path):
    root, there = tmp_path / "own", tmp_path / "there"
    for place in (root / "a", there):
        place.mkdir(parents=True)
        picture(0).save(place / "0.png")
    (root / "linked").symlink_to(there, target_is_directory=True)
    (root / "loop").symlink_to(root, target_is_directory=True)
    (root / "nowhere").symlink_to(tmp_path / "nothing")
    (root / "metadata.csv").write_text("file_name\na/0.png\nlinked/0.png\n")
    known = SimpleNamespace(commit=None, place={"path": str(root)})
    before = identity(known)
    assert identity(known) == before
    picture(1, (9, 9)).save(there / "0.png")
    changed = identity(known)
    (root / "a").rename(root / "b")
    assert len({before, changed, identity(known)}) == 3


def test_a_link_that_leads_nowhere_is_not_replaced(checkpoint, photos, tmp_path, capsys):
    link = tmp_path / "a.csv"
    link.symlink_to(tmp_path / "gone.csv")
    assert run(checkpoint, photos, "--output", link) == 2 and "--output" in capsys.readouterr().err
    assert link.is_symlink()


def test_what_is_given_as_the_wrong_thing_is_told_so(checkpoint, photos, tmp_path, capsys):
    for words, said in (
        (["--image_list", photos], "is a folder"),
        (["https://a.b/c.jpg"], "web address"),
    ):
        assert run(checkpoint, *words, "--output", tmp_path / "a.csv") == 2
        assert said in capsys.readouterr().err
