# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Two commands at once on one folder: the second says who uses it, and the folder is what the first alone would have made."""

import io
import os
import shutil
import sys
import tempfile
import threading
from importlib import import_module

import pytest
from helpers import image_dataset
from test_calibrate import digests, folder, made, sets  # noqa: F401

from hf_robustft import pipeline
from hf_robustft.cli import compare, evaluate, export, main, train
from hf_robustft.comparison.runs import read_run
from hf_robustft.files import locked
from hf_robustft.publishing import recalibrate

QUIET = ["--use_cpu", "--disable_tqdm"]


class Paused:
    """A command in a process of its own that stops where a function is called, until it may go on."""

    def __init__(self, module, name, arguments):
        (self._read, say), (listen, self._write) = os.pipe(), os.pipe()
        self._said = tempfile.TemporaryFile()
        self.pid = os.fork()
        if self.pid:
            os.close(say), os.close(listen)
            assert os.read(self._read, 1) == b"x", "it never came to that"
            return
        os.close(self._read), os.close(self._write)
        real = getattr(module, name)

        def pausing(*given, **options):
            os.write(say, b"x")
            os.read(listen, 1)
            return real(*given, **options)

        status = 1
        sys.stderr = io.TextIOWrapper(self._said, encoding="utf-8", write_through=True)
        try:
            setattr(module, name, pausing)
            status = main([str(argument) for argument in arguments])
        finally:
            os._exit(status)

    def goes_on(self) -> int:
        os.close(self._write)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self._said.seek(0)
        print("The first command said:", self._said.read().decode("utf-8", "replace"))
        return status


@pytest.fixture
def calibrate(folder, sets, tmp_path):  # noqa: F811
    sets["validation"].dataset.to_parquet(tmp_path / "validation.parquet")
    return ["calibrate", folder, "--dataset", tmp_path / "validation.parquet", *QUIET]


def refusal(capsys, arguments) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("error: ")
    return line


def test_what_changes_or_publishes_a_folder_waits_for_a_calibration(folder, tmp_path, capsys, calibrate):  # noqa: F811
    whole = tmp_path / "whole" / folder.name
    shutil.copytree(folder, whole)
    assert main([str(word) for word in (calibrate[0], whole, *calibrate[2:])]) == 0
    first = Paused(recalibrate, "collect_logits", calibrate)
    held = f"{folder} is in use by `hf-robustft calibrate` (process {first.pid} on "
    for second in (calibrate, ["publish", folder, "--repo_id", "me/mine", "--dry_run"]):
        assert held in refusal(capsys, second)
    # Readers see the old model, whole.
    before = digests(folder)
    pipeline(folder)
    assert digests(folder) == before
    assert first.goes_on() == 0
    assert digests(folder) == digests(whole)


def test_a_model_that_is_changed_while_it_is_read_is_not_measured(folder, tmp_path, monkeypatch, capsys, calibrate):  # noqa: F811
    image_dataset(8).to_parquet(tmp_path / "test.parquet")
    words = ["evaluate", folder, "--eval_datasets", tmp_path / "test.parquet", "--output_dir", tmp_path / "out", *QUIET]
    real = evaluate.check_images

    def meanwhile(*given, **options):
        # Between its robustft.json and its weights.
        assert main([str(word) for word in calibrate]) == 0
        return real(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "check_images", meanwhile)
        assert "was changed by another command while it was read; start again" in refusal(capsys, words)
    assert not (tmp_path / "out").exists()
    assert main([str(word) for word in words]) == 0
    # Two that only read it do not wait for each other; two that write the same results do.
    first = Paused(evaluate, "check_images", words)
    assert "in use by `hf-robustft evaluate`" in refusal(capsys, words)
    assert main([str(word) for word in (*words[:5], tmp_path / "other", *QUIET)]) == 0
    assert first.goes_on() == 0


def test_a_second_run_into_one_folder_is_refused_before_it_is_taken_for_one_that_did_not_finish(tmp_path, capsys):
    for name in ("train", "test"):
        image_dataset(8).to_parquet(tmp_path / f"{name}.parquet")
    (tmp_path / "out" / "checkpoint-1").mkdir(parents=True)
    (tmp_path / "out" / "checkpoint-1" / "trainer_state.json").write_text('{"max_steps": 2, "global_step": 1}')
    words = ["train", "--method", "zero_shot", "--train_dataset", tmp_path / "train.parquet", "--eval_datasets"]
    words += [tmp_path / "test.parquet", "--output_dir", tmp_path / "out", "--use_cpu", "--disable_tqdm", "true"]
    assert "did not finish" in refusal(capsys, words)
    (tmp_path / "out" / "checkpoint-1").rename(tmp_path / "elsewhere")
    first = Paused(train, "load_dual_encoder", words)
    (tmp_path / "elsewhere").rename(tmp_path / "out" / "checkpoint-1")
    assert f"in use by `hf-robustft train` (process {first.pid} on " in refusal(capsys, words)
    shutil.rmtree(tmp_path / "out" / "checkpoint-1")
    assert first.goes_on() == 0
    # What a comparison reads it finishes first, and what it writes is its own.
    read_run(tmp_path / "out")
    words = ["compare", tmp_path / "out", "--output_dir", tmp_path / "compared"]
    first = Paused(compare, "read_runs", words)
    assert "in use by `hf-robustft compare`" in refusal(capsys, words)
    # There is nothing trained in it.
    assert first.goes_on() == 2


@pytest.mark.parametrize(
    ("command", "reads"), [("export {clip} --output_dir {out}", "pipeline"), ("watch {clip} --reference known --stream new --output_dir {out}", "reference_images")]
)
def test_a_second_export_or_watch_is_refused_before_it_reads_anything(command, reads, folder, tmp_path, monkeypatch, capsys):  # noqa: F811
    words, out, held, ends = command.format(clip=folder, out=tmp_path / "out").split(), tmp_path / "out", threading.Event(), threading.Event()

    def first():
        with locked(out, f"hf-robustft {words[0]}"):
            held.set()
            ends.wait(60)

    def read(*given, **options):
        raise AssertionError(reads)

    monkeypatch.setattr(import_module(f"hf_robustft.cli.{words[0]}"), reads, read)
    monkeypatch.chdir(tmp_path)
    for name in ("known", "new"):
        (tmp_path / name).mkdir()
    other = threading.Thread(target=first)
    other.start()
    try:
        assert held.wait(60)
        assert f"in use by `hf-robustft {words[0]}` (process {os.getpid()} on " in refusal(capsys, words)
    finally:
        ends.set()
        other.join()
    assert not out.exists()


def test_an_export_is_not_written_into_a_model_that_came_meanwhile(folder, tmp_path, monkeypatch, capsys):  # noqa: F811
    """It was trained there after the first look at the folder, and before the lock."""
    out, first_look = tmp_path / "out", export.check_folder

    def meanwhile(output):
        first_look(output)
        shutil.copytree(folder, out)

    monkeypatch.setattr(export, "check_folder", meanwhile)
    assert str(out) in refusal(capsys, ["export", folder, "--output_dir", out, "--format", "torch_export", *QUIET])
    assert digests(out) == digests(folder)
