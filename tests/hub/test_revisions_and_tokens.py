# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Models and data by name are of one commit, which is recorded; and the token is in nothing that is written or said."""

import io
import json
import shlex

import pytest
from helpers import CLASSES, TEMPLATES, image_dataset, tiny_processor
from safetensors.torch import load, save

from hf_robustft.evaluation.report import load_reports
from hub.loopback import LoopbackHub

TOKEN = "hf_" + "Q7wE9r" * 6
DATA = ["--model", "alice/base", "--templates", "prompts.txt", "--train_dataset", "alice/train", "--eval_datasets", "alice/test"]
QUIET = ["--use_cpu", "--disable_tqdm", "true", "--report_to", "none", "--save_strategy", "no", "--logging_steps", "1"]


@pytest.fixture
def private():
    """A Hub with a model and data sets that the token alone may read."""
    with LoopbackHub({TOKEN: {"name": "alice"}}) as hub:
        yield hub


def seeded(hub, folder, tiny_clip):
    tiny_clip.save_pretrained(folder / "base")
    tiny_processor().save_pretrained(folder / "base")
    model = {path.name: path.read_bytes() for path in (folder / "base").iterdir()}
    hub.seed("model", "alice/base", model, private=True)
    for seed, name in enumerate(("train", "test")):
        image_dataset(16, seed=seed).to_parquet(folder / "rows.parquet")
        hub.seed("dataset", f"alice/{name}", {"data/train-00000-of-00001.parquet": (folder / "rows.parquet").read_bytes()}, private=True)
    (folder / "prompts.txt").write_text("\n".join(TEMPLATES))
    return model


def train(*more):
    flags = [*DATA, "--method", "flyp", "--max_steps", "2", "--per_device_train_batch_size", "8", "--output_dir", "out", *QUIET]
    return ["-m", "hf_robustft.cli", "train", *flags, *more]


def moving(hub, id, files, pattern):
    """Let a repository move to other files as soon as a request that matches has been answered."""
    answer, moved = hub.find, []

    def find(type, asked, account, write=False):
        found = answer(type, asked, account, write)
        if not moved and asked == id and any(pattern in request.path for request in hub.log):
            moved.append(hub.seed(type, id, files))
        return found

    hub.find = find


@pytest.mark.parametrize("streaming", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_is_of_one_commit_and_says_which(private, run_with_hub, tmp_path, tiny_clip, streaming):
    model = seeded(private, tmp_path, tiny_clip)
    first = {key: private.repositories[key].at("main").sha for key in private.repositories}
    # What comes while the run goes on: other weights, other settings of the processor.
    weights = {name: value + 1 for name, value in load(model["model.safetensors"]).items()}
    settings = json.loads(model["processor_config.json"])
    settings["image_processor"]["image_mean"] = [0.1, 0.1, 0.1]
    later = {"model.safetensors": save(weights, {"format": "pt"}), "processor_config.json": json.dumps(settings).encode()}
    moving(private, "alice/base", later, "processor_config.json")
    done = run_with_hub(train("--learning_rate", "1e-9", *(["--streaming"] if streaming else [])), private, TOKEN)
    assert private.repositories["model", "alice/base"].at("main").sha != first["model", "alice/base"]
    out = tmp_path / "out"
    made = load((out / "model.safetensors").read_bytes())
    assert all(made[name].allclose(value, atol=1e-6) for name, value in load(model["model.safetensors"]).items())
    card = json.loads((out / "robustft.json").read_text())["card"]
    assert card["base_model_revision"] == first["model", "alice/base"]
    revisions = {item["name"]: item.get("revision") for item in card["sets"]}
    assert revisions == {name: first["dataset", f"alice/{name}"] for name in ("train", "test")}
    assert load_reports(out / "evaluation.json")[-1].results["test"].source["commit"] == first["dataset", "alice/test"]
    written = (out / "README.md").read_text()
    assert all(f"revision `{commit}`" in written for commit in first.values())
    check_silence(private, tmp_path, done)


def moved(hub, first):
    """What each repository is now, which has changed since it was `first` looked at; nothing of that was asked for."""
    later = {key: hub.repositories[key].at("main").sha for key in first}
    assert set(later.values()).isdisjoint(first.values())
    assert not [request.path for request in hub.log if any(sha in request.path for sha in later.values())]


def test_processes_merge_models_of_one_commit_and_say_which(private, run_with_hub, tmp_path, tiny_clip):
    """Both models change as soon as the first process has one file of theirs."""
    model = seeded(private, tmp_path, tiny_clip)
    tuned, later = ({name: value + by for name, value in load(model["model.safetensors"]).items()} for by in (0.01, 1))
    files = {**model, "model.safetensors": save(tuned, {"format": "pt"})}
    private.seed("model", "alice/tuned", files, private=True)
    first = {("model", id): private.repositories["model", id].at("main").sha for id in ("alice/base", "alice/tuned")}
    for id in ("alice/tuned", "alice/base"):
        moving(private, id, {"model.safetensors": save(later, {"format": "pt"})}, f"{id}/resolve/{first['model', id]}")
    words = ["--method", "wise_ft", "--finetuned_model", "alice/tuned", *DATA, "--skip_baseline"]
    words += ["--output_dir", "out", "--use_cpu", "--disable_tqdm"]
    run_with_hub(["-m", "hf_robustft.cli", "train", *words], private, TOKEN, processes=2)
    moved(private, first)
    # By one process: before, and as it is downloaded.
    assert len([request for request in private.log if "alice/base/resolve/main" in request.path]) <= 3
    facts = json.loads((tmp_path / "out" / "robustft.json").read_text())
    assert facts["card"]["base_model_revision"] == first["model", "alice/base"]
    assert facts["merge"]["fine_tuned_revisions"] == {"alice/tuned": first["model", "alice/tuned"]}
    written = (tmp_path / "out" / "README.md").read_text()
    assert f"Fine-tuned: `alice/tuned` (revision `{first['model', 'alice/tuned']}`)." in written


@pytest.mark.parametrize(("processes", "streaming"), [(1, False), (2, True), pytest.param(2, False, marks=pytest.mark.slow)])
def test_data_are_of_one_commit_in_all_processes(private, run_with_hub, tmp_path, tiny_clip, processes, streaming):
    """Both data sets change as soon as the first process knows their commits."""
    seeded(private, tmp_path, tiny_clip)
    first = {("dataset", id): private.repositories["dataset", id].at("main").sha for id in ("alice/train", "alice/test")}
    image_dataset(24, seed=7).to_parquet(tmp_path / "rows.parquet")
    for _, id in first:
        later = {"data/train-00000-of-00001.parquet": (tmp_path / "rows.parquet").read_bytes()}
        moving(private, id, later, f"/api/datasets/{id}")
    more = ["--streaming"] if streaming else []
    run_with_hub(train("--skip_baseline", *more), private, TOKEN, processes=processes)
    moved(private, first)
    out = tmp_path / "out"
    card = json.loads((out / "robustft.json").read_text())["card"]
    assert {item["name"]: item["revision"] for item in card["sets"]} == {id.partition("/")[2]: first["dataset", id] for _, id in first}
    assert load_reports(out / "evaluation.json")[-1].results["test"].n == 16


def test_all_runs_of_a_comparison_start_at_one_commit(private, run_with_hub, tmp_path, tiny_clip):
    model = seeded(private, tmp_path, tiny_clip)
    first = {("model", "alice/base"): private.repositories["model", "alice/base"].at("main").sha}
    words = [*DATA, "--methods", "flyp", "--seeds", "0", "--output_dir", "runs", "--use_cpu", "--dry_run"]
    done = run_with_hub(["-m", "hf_robustft.cli", "compare", *words], private, TOKEN)
    commands = [shlex.split(line) for line in done.stdout.splitlines()]
    given = [command[command.index("--model_revision") + 1] for command in commands]
    assert len(given) == 4 and {*given} == {*first.values()}
    weights = {name: value + 1 for name, value in load(model["model.safetensors"]).items()}
    private.seed("model", "alice/base", {"model.safetensors": save(weights, {"format": "pt"})})
    zero_shot = next(command for command in commands if "zero_shot" in command)
    run_with_hub(["-m", "hf_robustft.cli", *zero_shot[1:]], private, TOKEN)
    moved(private, first)
    facts = json.loads((tmp_path / "runs" / "runs" / "zero_shot" / "robustft.json").read_text())
    assert facts["card"]["base_model_revision"] == first["model", "alice/base"]
    made = load((tmp_path / "runs" / "runs" / "zero_shot" / "model.safetensors").read_bytes())
    assert all(made[name].equal(value) for name, value in load(model["model.safetensors"]).items())
    # What changes nothing is refused.
    wrong = train("--model", "emoji_clip", "--model_revision", "main")
    assert "--model_revision" in run_with_hub(wrong, private, TOKEN, check=False).stderr


def check_silence(hub, folder, *done):
    """The token is in no file, in nothing that was sent but its header, and in nothing that was said."""
    local = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    said = [text.encode() for item in done for text in (item.stdout, item.stderr)]
    paths = [request.path.encode() for request in hub.log]
    assert any(b"alice/" in text for text in (*local.values(), *said)) and any(request.token for request in hub.log)
    found = [path for path, content in local.items() if TOKEN.encode() in content]
    assert not found and not [text for text in (*said, *paths, *hub.everything()) if TOKEN.encode() in text]


#: By the name of a model how the Hub fails on it.
FAULTS = {"missing": None, "wrong": {"status": 401}, "broken": {"status": 500}, "reset": {"reset": True}, "cut": {"cut": 20}}
COMMANDS = """
import logging
from hf_robustft.cli import main
logging.basicConfig(level=logging.DEBUG)
token = {token!r}
for name in {names}:
    main(["train", "--train_dataset", "alice/train", "--model", "alice/" + name, "--hub_token", token, "--output_dir", "out", "--use_cpu"])
    main(["evaluate", "alice/base", "--eval_datasets", "alice/" + name, "--output_dir", "out", "--use_cpu"])
for model in ("https://me:" + token + "@hub.example/alice/base", token):
    main(["evaluate", model, "--eval_datasets", "emoji_shift"])
main(["train", "--hub_tokn=" + token])
main(["compare", "--hub_token=" + token])
"""


@pytest.mark.parametrize("names", [["missing", "wrong"], pytest.param(["broken", "reset", "cut"], marks=pytest.mark.slow)])
def test_no_failure_of_the_hub_tells_the_token(private, run_with_hub, tmp_path, tiny_clip, names):
    """The slow ones wait through all repetitions: `python -m pytest -m slow tests/hub/test_revisions_and_tokens.py`."""
    model = seeded(private, tmp_path, tiny_clip)
    rows = private.files("dataset", "alice/test")
    for name in names:
        if FAULTS[name] is not None:
            private.seed("model", f"alice/{name}", model, private=True)
            private.seed("dataset", f"alice/{name}", rows, private=True)
            private.fail(f"alice/{name}/", times=1000, **FAULTS[name])
    done = run_with_hub(COMMANDS.format(token=TOKEN, names=names), private, TOKEN)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2 * len(names) + 4, errors
    assert all(f"alice/{name}" in line for place, name in enumerate(names) for line in errors[2 * place : 2 * place + 2])
    check_silence(private, tmp_path, done)


def test_a_stream_is_not_resumed_on_files_that_changed_on_the_hub(private, run_with_hub, tmp_path, tiny_clip):
    """Rows are not read to compare them, and there may be as many; another README makes no other data."""
    seeded(private, tmp_path, tiny_clip)
    command = train("--skip_baseline", "--streaming", "--save_strategy", "steps", "--save_steps", "1")
    run_with_hub(command, private, TOKEN)
    private.seed("dataset", "alice/train", {"README.md": b"Pictures of animals."})
    run_with_hub([*command, "--resume_from_checkpoint", "out/checkpoint-1"], private, TOKEN)
    image_dataset(16, seed=7).to_parquet(tmp_path / "rows.parquet")
    private.seed("dataset", "alice/train", {"data/train-00000-of-00001.parquet": (tmp_path / "rows.parquet").read_bytes()})
    done = run_with_hub([*command, "--resume_from_checkpoint", "out/checkpoint-1"], private, TOKEN, check=False)
    assert done.returncode == 2 and "error: The checkpoint was written with the training set examples 16, files " in done.stderr


def test_files_of_a_data_set_that_are_in_no_split_are_said(private, run_with_hub, tmp_path):
    """`datasets` takes one picture called like a test for a split, and hides all others; whoever writes a README says what counts."""
    picture = io.BytesIO()
    image_dataset(1)[0]["image"].save(picture, "PNG")
    names = [f"{name}/{number}.png" for name in CLASSES for number in ("0", "1", "my-test-2")]
    pictures = {"pictures": names, "whole": [f"train/{name}" for name in names], "meant": [f"{part}/{name}" for part in ("a", "b") for name in names]}
    for name, files in pictures.items():
        private.seed("dataset", f"alice/{name}", dict.fromkeys(files, picture.getvalue()), private=True)
    private.seed("dataset", "alice/meant", {"README.md": b"---\nconfigs:\n- config_name: one\n  data_files: a/**\n---\n"})
    script = "from hf_robustft import load_benchmark\nfor name in ('pictures', 'whole', 'meant'): print(len(load_benchmark(f'alice/{name}').load()))"
    done = run_with_hub(script, private, TOKEN)
    assert done.stdout.split() == ["4", "12", "12"]
    assert done.stderr.count("not read") == 1
    assert "alice/pictures: 8 files are in none of its splits ('test') and not read: 'bee/0.png', 'bee/1.png', 'cat/0.png'" in done.stderr
