# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`.eval_results/*.yaml` hold what the Hub's own parser reads, and no task that a data set does not define."""

from types import SimpleNamespace

import pytest
import yaml
from helpers import CLASSES
from helpers.cards import benchmark, report
from huggingface_hub import parse_eval_result_entries
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from hf_robustft.data import hub
from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.evaluation.report import save_reports
from hf_robustft.modeling.metadata import load_robustft_json
from hf_robustft.publishing import eval_results
from hf_robustft.publishing.card_facts import SetFacts
from hf_robustft.publishing.claims import FAILS, HOLDS, NOT_MEASURED
from hf_robustft.publishing.eval_results import defined_task, defined_tasks, task_in, write_eval_results
from hf_robustft.publishing.folder_claims import ClaimingFolder, card_claims, leaderboard_claims
from hf_robustft.publishing.metadata import write_robustft_json
from hf_robustft.publishing.model_card import refresh_model_card, write_model_card

SHA = "0123456789abcdef0123456789abcdef01234567"
EVAL_YAML = """
name: Pictures
evaluation_framework: somebody
tasks:
  - id: photos
    config: default
    split: test
  - id: sketches
    config: drawn
    split: test
  - id: twice
    config: both
    split: test
  - id: again
    config: both
    split: test
"""


def facts(name, role="id", path="owner/pictures", config=None, split="test", revision=SHA):
    return SetFacts(name, role, 4, path=path, config=config, split=split, revision=revision)


def parsed(path):
    return parse_eval_result_entries(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_the_hubs_parser_reads_the_accuracies_back(tmp_path):
    measured = report(accuracy=1 / 3)
    sets = [facts("photo"), facts("sketch", "shift", config="drawn"), facts("cartoon", "shift", "owner/cartoons")]
    tasks = {"photo": "photos", "sketch": "sketches", "cartoon": "default"}
    paths = write_eval_results(tmp_path, measured, sets, tasks)
    assert [path.name for path in paths] == ["owner--pictures.yaml", "owner--cartoons.yaml"]
    first, second = parsed(paths[0])
    assert (first.dataset_id, first.task_id, first.value, first.dataset_revision) == (
        "owner/pictures",
        "photos",
        1 / 3,
        SHA,
    )
    assert first.notes == "top-1 accuracy as a fraction; zero-shot prompts"
    assert (second.task_id, second.value) == ("sketches", 1 / 3)
    assert parsed(paths[1])[0].dataset_id == "owner/cartoons"


def test_a_task_is_taken_only_where_config_and_split_are_those_measured():
    assert task_in(EVAL_YAML, facts("photo")) == "photos"
    assert task_in(EVAL_YAML, facts("photo", config="drawn")) == "sketches"
    assert task_in(EVAL_YAML, facts("photo", split="train")) is None
    assert task_in(EVAL_YAML, facts("photo", config="both")) is None, "which of the two is not known"
    for broken in ("", "a: [", "tasks: 3", "tasks: [x, {id: 4, split: test}]", "- a"):
        assert task_in(broken, facts("photo")) is None


def test_the_repository_is_asked_at_the_revision_that_was_measured(tmp_path, monkeypatch):
    asked = []

    def download(*args, **kwargs):
        asked.append((args, kwargs))
        (tmp_path / "eval.yaml").write_text(EVAL_YAML)
        return str(tmp_path / "eval.yaml")

    monkeypatch.setattr(eval_results, "hf_hub_download", download)
    sets = [facts("photo"), facts("train", "train"), facts("local", path=None), facts("x", split="none")]
    assert defined_tasks(sets) == {"photo": "photos"}
    assert asked[0] == (("owner/pictures", "eval.yaml"), {"repo_type": "dataset", "revision": SHA}) and len(asked) == 2


def test_without_the_file_or_the_hub_there_is_no_task(monkeypatch):
    def failing(error):
        def download(*_, **__):
            raise error

        monkeypatch.setattr(eval_results, "hf_hub_download", download)

    failing(EntryNotFoundError("no eval.yaml"))
    assert defined_task(facts("photo")) is None
    failing(LocalEntryNotFoundError("offline"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert defined_task(facts("photo")) is None
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.warns(UserWarning, match="cannot be asked which tasks owner/pictures defines"):
        assert defined_task(facts("photo")) is None


def test_a_hub_out_of_reach_is_asked_once_for_all_sets(monkeypatch):
    """Its own client asks six times, 23 seconds, for each set."""
    asked = []

    def fail(url, timeout):
        asked.append(timeout)
        raise ConnectionError("no network")

    def download(*_, **options):
        assert options["local_files_only"]
        raise LocalEntryNotFoundError("not in the cache")

    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_reached", set())
    monkeypatch.setattr(hub, "get_session", lambda: SimpleNamespace(head=fail))
    monkeypatch.setattr(eval_results, "hf_hub_download", download)
    with pytest.warns(UserWarning, match="which tasks owner/drawings, owner/pictures define: no network") as caught:
        assert defined_tasks([facts("photo"), facts("drawn", "shift", path="owner/drawings")]) == {}
    assert len(caught) == len(asked) == 1 and asked[0] <= 5
    assert defined_tasks([facts("local", path=None)]) == {} and len(asked) == 1


def test_the_card_writes_renews_and_removes_its_own_files_alone(tmp_path):
    folder = tmp_path / "my-clip"
    write_robustft_json(folder, method="carot", class_names=CLASSES, templates=("a {}.",), settings={})
    hub = Benchmark(name="photo", role="id", class_names=CLASSES, path="owner/pictures", split="test", revision=SHA)
    given = {"method": "carot", "settings": {}, "data": [hub, benchmark("sketch", "shift")]}
    write_model_card(folder, report=report(accuracy=0.5), eval_tasks={"photo": "photos"}, **given)
    path = folder / ".eval_results" / "owner--pictures.yaml"
    assert parsed(path)[0].value == 0.5
    row = next(line for line in (folder / "README.md").read_text().splitlines() if "owner/pictures](" in line)
    assert f"[owner/pictures](https://huggingface.co/datasets/owner/pictures), test, revision `{SHA}`" in row
    refresh_model_card(folder, report(accuracy=0.75))
    assert parsed(path)[0].value == 0.75 and load_robustft_json(folder)["card"]["eval_tasks"] == {"photo": "photos"}
    other = path.with_name("mine.yaml")
    other.write_text("- dataset: {id: a/b, task_id: c}\n  value: 1\n")
    write_model_card(folder, report=report(), **given)
    assert not path.exists() and other.exists()
    path.write_text("- dataset: {id: owner/pictures, task_id: mine}\n  value: 1\n")
    with pytest.warns(UserWarning, match="written by hand and is kept"):
        write_model_card(folder, report=report(), eval_tasks={"photo": "photos"}, **given)
    assert parsed(path)[0].task_id == "mine"
    with pytest.raises(ValueError, match="eval_tasks names the set 'sketch'"):
        write_model_card(folder, report=report(), eval_tasks={"sketch": "x"}, **given)


def test_a_card_says_the_same_where_a_folder_has_the_name_of_a_repository(tmp_path, monkeypatch):
    folder = tmp_path / "my-clip"
    write_robustft_json(folder, method="carot", class_names=CLASSES, templates=("a {}.",), settings={})
    data = [Benchmark(name="photo", role=role, class_names=CLASSES, path="owner/pictures", split=role, revision=SHA) for role in ("id", "train")]
    measured = report(names=(("photo", "id"),))
    write_model_card(folder, report=measured, eval_tasks={}, method="carot", settings={}, data=data, base_model="owner/clip")
    save_reports(folder / "evaluation.json", [measured])
    text = (folder / "README.md").read_text()
    assert "base_model: owner/clip" in text and text.count("owner/pictures") >= 3
    for name in ("clip", "pictures"):
        (tmp_path / "owner" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert {claim.verdict for claim in card_claims(ClaimingFolder.read(folder, "it"))[0]} == {HOLDS}
    refresh_model_card(folder, measured)
    assert (folder / "README.md").read_text() == text


def test_accuracies_of_two_sets_of_one_repository_that_were_exchanged_are_found(tmp_path):
    folder = tmp_path / "my-clip"
    write_robustft_json(folder, method="carot", class_names=CLASSES, templates=("a {}.",), settings={})
    places = {"path": "owner/pictures", "split": "test", "revision": SHA, "class_names": CLASSES}
    data = [Benchmark(name="photo", role="id", **places), Benchmark(name="sketch", role="shift", config="drawn", **places)]
    measured = report(accuracy=0.5)
    measured.results["sketch"].accuracy = 0.25
    write_model_card(folder, report=measured, eval_tasks={"photo": "photos", "sketch": "sketches"}, method="carot", settings={}, data=data)
    save_reports(folder / "evaluation.json", [measured])
    first, second = leaderboard_claims(ClaimingFolder.read(folder, "it"))
    assert (first.verdict, second.verdict) == (HOLDS, HOLDS) and "photos" in first.name and "sketches" in second.name
    path = folder / ".eval_results" / "owner--pictures.yaml"
    text = path.read_text()
    values = [str(claim.claimed) for claim in (first, second)]
    assert all(text.count(f"value: {value}\n") == 1 for value in values)
    path.write_text(text.replace(f"value: {values[0]}\n", "value: x\n").replace(f"value: {values[1]}\n", f"value: {values[0]}\n").replace("value: x\n", f"value: {values[1]}\n"))
    assert [claim.verdict for claim in leaderboard_claims(ClaimingFolder.read(folder, "it"))] == [FAILS, FAILS]
    path.write_text(text + text.split("\n", 1)[1])
    assert [claim.verdict for claim in leaderboard_claims(ClaimingFolder.read(folder, "it"))] == [HOLDS, HOLDS, FAILS, FAILS]
    (folder / "robustft.json").unlink()
    assert {claim.verdict for claim in leaderboard_claims(ClaimingFolder.read(folder, "it"))} == {NOT_MEASURED}
