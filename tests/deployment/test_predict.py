# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`hf-robustft predict` writes what the pipeline answers."""

import io
import itertools
import os
import re
import shutil
import tarfile
import warnings
from types import SimpleNamespace

import pytest
import transformers
from helpers import CLASSES, TEMPLATES
from helpers.broken_images import broken, encoded, picture
from helpers.families import save_family
from helpers.predicting import QUIET, left, rows, run
from test_pipeline import KEYS, N, trained_head

from hf_robustft import pipeline
from hf_robustft.cli import main
from hf_robustft.cli.predict import PredictOptions, chosen_images, identity
from hf_robustft.deployment import predict as module
from hf_robustft.deployment.answer_tables import Columns, joined, save_answers
from hf_robustft.deployment.image_sources import named_images
from hf_robustft.modeling.metadata import update_robustft_json
from hf_robustft.publishing.metadata import write_robustft_json

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
