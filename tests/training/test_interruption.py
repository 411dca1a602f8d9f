# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Ctrl-C and SIGTERM: the step ends, a checkpoint is written, and the run resumed from there is the uninterrupted one."""

import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import CLASSES, TEMPLATES, arguments, image_dataset, tiny_processor
from safetensors.torch import load_file
from transformers import TrainerCallback

from hf_robustft import Benchmark, CaRotTrainer, RobustTrainer
from hf_robustft.cli import endings
from hf_robustft.training.interruption import Interrupted

EVALUATION = Benchmark.from_dataset(image_dataset(8, seed=1), name="validation", role="validation", templates=TEMPLATES)


class Signals(TrainerCallback):
    """Sends signals to this process within a step."""

    def __init__(self, step: int, *numbers: int):
        self.step, self.numbers = step, numbers

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step - 1:
            for number in self.numbers:
                os.kill(os.getpid(), number)


def trainer(model, folder, *callbacks, **settings):
    settings = {"num_train_epochs": 3, "save_strategy": "steps", "save_steps": 100, **settings}
    return CaRotTrainer(
        model,
        arguments(folder, **settings),
        train_dataset=image_dataset(24),
        eval_dataset=EVALUATION if settings.get("eval_strategy") else None,
        processing_class=tiny_processor(),
        callbacks=list(callbacks),
    )


def weights(run):
    return {name: value.clone() for name, value in run.model.state_dict().items()}


@pytest.mark.parametrize(
    ("number", "step", "settings"),
    [
        (signal.SIGINT, 4, {}),
        (signal.SIGTERM, 3, {"save_strategy": "epoch", "eval_strategy": "epoch"}),
        (signal.SIGINT, 5, {"save_total_limit": 1, "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2,
                            "load_best_model_at_end": True, "metric_for_best_model": "nll"}),
        (signal.SIGINT, 4, {"dataloader_num_workers": 1, "restore_callback_states_from_checkpoint": True}),
    ],
    ids=["sigint", "sigterm", "best", "workers"],
)  # fmt: skip
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tiny_clip, tmp_path, number, step, settings):
    import copy

    whole = trainer(copy.deepcopy(tiny_clip), tmp_path / "whole", **settings)
    whole.train()
    stopped = trainer(copy.deepcopy(tiny_clip), tmp_path / "out", Signals(step, number), **settings)
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=f"after step {step} of 9") as found:
        stopped.train()
    assert signal.getsignal(number) is before
    assert found.value.signal == number and stopped.state.global_step == step
    assert os.path.basename(found.value.checkpoint) == f"checkpoint-{step}"
    # It was the process that ended, and not the run.
    saved = json.loads((Path(found.value.checkpoint) / "trainer_state.json").read_text())
    assert saved["stateful_callbacks"]["TrainerControl"]["args"]["should_training_stop"] is False
    resumed = trainer(copy.deepcopy(tiny_clip), tmp_path / "out", **settings)
    resumed.train(resume_from_checkpoint=found.value.checkpoint)
    assert resumed.state.global_step == 9
    expected = weights(whole)
    for name, value in weights(resumed).items():
        assert torch.equal(value, expected[name]), name


def test_an_evaluation_that_is_not_the_best_does_not_keep_the_checkpoint_from_being_written(tiny_clip, tmp_path, monkeypatch):
    # Trainer takes back what was asked to be saved at a step that is measured and is not the best.
    accuracies = iter([0.5, 0.25, 0.25, 0.25])
    monkeypatch.setattr(CaRotTrainer, "evaluate", lambda self, **options: {"eval_validation/accuracy": next(accuracies)})
    settings = {"save_strategy": "best", "metric_for_best_model": "accuracy", "eval_strategy": "steps", "eval_steps": 1}
    run = trainer(tiny_clip, tmp_path, Signals(3, signal.SIGTERM), **settings)
    with pytest.raises(Interrupted, match="after step 3") as found:
        run.train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-3"]
    assert found.value.checkpoint == str(tmp_path / "checkpoint-3")
    run.check_checkpoint(found.value.checkpoint)


@pytest.mark.parametrize("settings", [{"save_strategy": "no"}, {"save_on_interrupt": False}])
def test_nothing_is_written_where_nothing_is_asked_for(tiny_clip, tmp_path, settings):
    run = trainer(tiny_clip, tmp_path, Signals(2, signal.SIGINT), **settings)
    with pytest.raises(Interrupted, match="after step 2") as found:
        run.train()
    assert found.value.checkpoint is None and not list(tmp_path.glob("checkpoint-*"))


def test_the_second_signal_stops_at_once_and_a_doubled_one_does_not(tiny_clip, tmp_path, monkeypatch):
    run = trainer(tiny_clip, tmp_path / "doubled", Signals(2, signal.SIGINT, signal.SIGINT))
    with pytest.raises(Interrupted, match="after step 2"):
        run.train()
    monkeypatch.setattr("hf_robustft.training.interruption.SAME_SIGNAL_SECONDS", 0)
    run = trainer(tiny_clip, tmp_path / "again", Signals(2, signal.SIGINT, signal.SIGINT))
    with pytest.raises(Interrupted, match="within a step") as found:
        run.train()
    assert found.value.checkpoint is None


def test_a_signal_after_the_last_step_is_not_lost(tiny_clip, tmp_path, capfd):
    run = trainer(tiny_clip, tmp_path, Signals(9, signal.SIGTERM), save_strategy="no")
    with pytest.raises(Interrupted, match="had ended at step 9") as found:
        run.train()
    assert run.state.global_step == 9 and found.value.checkpoint is None and found.value.signal == signal.SIGTERM


@pytest.fixture
def job(tmp_path, tiny_clip):
    """The command line of a run of the script on own images."""
    tiny_clip.save_pretrained(tmp_path / "base")
    tiny_processor().save_pretrained(tmp_path / "base")
    for i, row in enumerate(image_dataset(24)):
        folder = tmp_path / "train" / CLASSES[row["label"]]
        folder.mkdir(parents=True, exist_ok=True)
        row["image"].save(folder / f"{i}.png")
    flags = f"--model {tmp_path}/base --train_dataset {tmp_path}/train --per_device_train_batch_size 4 --max_steps 30"
    return [*flags.split(), *"--learning_rate 1e-3 --use_cpu --disable_tqdm --logging_steps 1 --save_steps 1000".split()]


def test_ctrl_c_of_the_script_is_one_line_with_the_command_that_goes_on(script, repository, job, tmp_path, capsys):
    program = str(repository / "examples" / "run_robust_ft.py")
    output = ["--output_dir", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, program, *job, *output], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if "'loss'" in line:
            process.send_signal(signal.SIGINT)
            break
    else:
        pytest.fail(process.stderr.read())
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    last = error.strip().splitlines()[-1]
    assert last.startswith("Interrupted after step ") and " of 30. Go on with: accelerate launch " in last
    command = shlex.split(last.partition("Go on with: ")[2])
    assert command[2] == program
    resume = command[3:]
    assert resume[:-2] == [*job, *output] and resume[-2] == "--resume_from_checkpoint"
    script.main(resume)
    script.main([*job, "--output_dir", str(tmp_path / "whole")])
    resumed, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "whole"))
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("saves", [False, True])
def test_a_signal_between_training_and_saving_says_that_training_had_ended(script, job, tmp_path, capsys, monkeypatch, number, saves):
    usual = RobustTrainer.save_model

    def save_model(self, *args, **kwargs):
        if self._saving_checkpoint:
            return usual(self, *args, **kwargs)
        os.kill(os.getpid(), number)

    out = str(tmp_path / "out")
    flags = [*job, "--max_steps", "2", "--output_dir", out, *(() if saves else ("--save_strategy", "no"))]
    monkeypatch.setattr(RobustTrainer, "save_model", save_model)
    try:
        status = endings.run(lambda: script.main(flags), endings.how_to_go_on(["run.py"], flags))
    finally:
        for name, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
            assert signal.signal(name, handler) in (handler, signal.SIG_IGN)
    assert status == {signal.SIGINT: endings.INTERRUPTED, signal.SIGTERM: endings.TERMINATED}[number]
    more = f"Nothing was saved; start again with: run.py {shlex.join(flags)}"
    if saves:
        more = f"Go on with: run.py {shlex.join(flags)} --resume_from_checkpoint {out}/checkpoint-2"
    assert capsys.readouterr().err.strip().splitlines()[-1] == f"Interrupted after training had ended at step 2. {more}"
    assert not list((tmp_path / "out").glob("model*.safetensors"))


#: Either signal is answered by either program in the same place, so each is sent once, to one of them; the other six:
#: `python -m pytest -m slow tests/training/test_interruption.py`.
OFTEN = {("script", signal.SIGINT, "loading"), ("command", signal.SIGTERM, "imports")}


@pytest.mark.parametrize(
    ("kind", "number", "when"),
    [
        pytest.param(*case, marks=[] if case in OFTEN else [pytest.mark.slow])
        for case in itertools.product(("script", "command"), (signal.SIGINT, signal.SIGTERM), ("imports", "loading"))
    ],
)
def test_a_signal_before_training_says_that_nothing_was_trained(repository, job, tmp_path, kind, number, when):
    program = [str(repository / "examples" / "run_robust_ft.py")] if kind == "script" else ["-m", "hf_robustft.cli", "train"]
    process = subprocess.Popen(
        [sys.executable, *program, *job, "--output_dir", str(tmp_path / "out")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    if when == "loading":
        # The first line is printed when imports are done, before data and model are loaded.
        assert "1 process of" in process.stdout.readline()
    else:
        time.sleep(1.5)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    begin = "accelerate launch " + program[0] if kind == "script" else "hf-robustft train"
    command = shlex.join([*job, "--output_dir", str(tmp_path / "out")])
    assert error.strip().splitlines()[-1] == f"Interrupted. Nothing was trained; start again with: {begin} {command}"
    # A shell says 130 of both: Python ends by the signal itself where it came in code that an extension module ran.
    ended = (130, -signal.SIGINT) if number == signal.SIGINT else (143,)
    assert "Traceback" not in error
    assert process.returncode in ended
    assert not (tmp_path / "out").exists()
