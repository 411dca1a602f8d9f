# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`hf-robustft predict` with a model and a data set on the Hub, each of one commit, by unmodified clients."""

import io
import json

from helpers import CLASSES, TEMPLATES, image_dataset, tiny_processor
from helpers.broken_images import encoded

from hf_robustft import pipeline
from hf_robustft.publishing.metadata import write_robustft_json

QUIET = ["--use_cpu", "--disable_tqdm", "--batch_size", "4"]


def rows(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_model_and_images_on_the_hub_are_answered_as_here(hub, run_with_hub, tiny_clip, tmp_path):
    folder, photos, data = tmp_path / "clip", tmp_path / "photos", image_dataset(10)
    tiny_clip.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    plain = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_robustft_json(folder, method="flyp", class_names=CLASSES, templates=TEMPLATES, settings={})
    photos.mkdir()
    for number, row in enumerate(data):
        row["image"].save(photos / f"{number:02}.png")
    hub.seed("model", "alice/clip", {path.name: path.read_bytes() for path in folder.iterdir()}, private=True)
    hub.seed("model", "alice/plain", plain)
    parts = {}
    for name, some in (("test-00000-of-00002", range(6)), ("test-00001-of-00002", range(6, 10))):
        buffer = io.BytesIO()
        data.select(some).to_parquet(buffer)
        parts[f"data/{name}.parquet"] = buffer.getvalue()
    hub.seed("dataset", "alice/animals", {**parts, "data/train-00000-of-00001.parquet": parts["data/test-00000-of-00002.parquet"]})
    hub.seed("dataset", "alice/folder", {f"{number}.png": encoded(row["image"], "PNG") for number, row in enumerate(data)})

    want = pipeline(folder, require_detector=False, batch_size=4)(photos)
    (tmp_path / "names.txt").write_text("\n".join(CLASSES))
    (tmp_path / "prompts.txt").write_text("\n".join(TEMPLATES))
    prompts = ["--class_names", "names.txt", "--templates", "prompts.txt"]
    for number, (words, name) in enumerate(
        [
            (["alice/clip", "photos"], "photos/{:02}.png"),
            (["alice/clip", "alice/animals/test", "--num_workers", "1"], "alice/animals/test#{}"),
            (["alice/clip", "alice/animals"], "alice/animals#{}"),
            (["alice/plain", "alice/folder", *prompts], "alice/folder#{}"),
        ]
    ):
        output = tmp_path / f"{number}.jsonl"
        run_with_hub(["-m", "hf_robustft.cli", "predict", *words, "--output", output.name, *QUIET], hub)
        found = rows(output)
        assert [row.pop("image") for row in found] == [name.format(n) for n in range(10)], words
        assert found == [{key: value for key, value in row.items() if key != "image"} for row in want], words
    # Without the file of classes the plain model has none.
    done = run_with_hub(["-m", "hf_robustft.cli", "predict", "alice/plain", "photos", "--output", "no.csv", *QUIET], hub, check=False)
    assert done.returncode == 2 and "robustft.json" in done.stderr and "--class_names" in done.stderr, done.stderr


def test_another_commit_of_the_model_is_another_model(hub, run_with_hub, tiny_clip, tmp_path):
    folder = tmp_path / "clip"
    tiny_clip.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    write_robustft_json(folder, method="flyp", class_names=CLASSES, templates=TEMPLATES, settings={})
    (tmp_path / "photos").mkdir()
    for number, row in enumerate(image_dataset(8)):
        row["image"].save(tmp_path / "photos" / f"{number:02}.png")
    hub.seed("model", "alice/clip", {path.name: path.read_bytes() for path in folder.iterdir()})
    words = ["-m", "hf_robustft.cli", "predict", "alice/clip", "photos", "--output", "a.jsonl", *QUIET]
    killed = """
import os, signal, sys
from hf_robustft.cli import main
from hf_robustft.deployment import predict

add, predict._ANSWERS = predict.AnswerFiles.add, 1

def once(self, *given):
    add(self, *given)
    os.kill(os.getpid(), signal.SIGKILL)

predict.AnswerFiles.add = once
main(sys.argv[1:])
"""
    assert run_with_hub(["-c", killed, *words[2:]], hub, check=False).returncode == -9
    hub.seed("model", "alice/clip", {"README.md": b"new"})
    done = run_with_hub(words, hub, check=False)
    assert done.returncode == 2 and "the model" in done.stderr, done.stderr
    run_with_hub([*words, "--overwrite"], hub)
    assert len(rows(tmp_path / "a.jsonl")) == 8
