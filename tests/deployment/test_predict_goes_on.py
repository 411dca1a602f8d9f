# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`hf-robustft predict` goes on where it was: nothing lost, nothing twice, and nothing mixed."""

import os
import shutil
import threading
from types import SimpleNamespace

import pytest
import torch
from helpers.broken_images import picture
from helpers.kills import ends_before
from helpers.predicting import left, rows, run
from test_pipeline import N

from hf_robustft import pipeline
from hf_robustft.data.transforms import ImageTransform
from hf_robustft.deployment import predict as module
from hf_robustft.deployment.predict import predict
from hf_robustft.files import locked
from hf_robustft.modeling.metadata import load_robustft_json, update_robustft_json


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


#: A text and a format that is written whole; the other text: `python -m pytest -m slow tests/deployment/test_predict_goes_on.py`.
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
