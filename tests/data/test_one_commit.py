# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A command reads one commit of a data set, whatever is written to it meanwhile. Over HTTP: tests/hub."""

from types import SimpleNamespace

import pytest
from helpers import CLASSES, image_dataset
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from hf_robustft.data import benchmark, hub, messages
from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.data.hub import ask_commit, at_one_commit, check_commit
from hf_robustft.data.pinned import one_commit

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def now(monkeypatch):
    """Of which commit a branch is, by its name; what is not in it the Hub does not say."""
    found = {None: OLD, "tiny": OLD}
    monkeypatch.setattr(hub, "_commit_now", lambda path, revision: found.get(revision))
    return found


def test_a_revision_stays_what_it_was_when_the_command_first_asked(now):
    assert ask_commit("owner/pets") is None and at_one_commit("owner/pets") is None
    with one_commit():
        assert ask_commit("owner/pets") == OLD
        # As it was given: of a commit by its number `datasets` knows less.
        assert at_one_commit("owner/pets") is None and at_one_commit("owner/pets", "tiny") == "tiny"
        now.update({None: NEW, "tiny": NEW})
        assert ask_commit("owner/pets") == at_one_commit("owner/pets") == at_one_commit("owner/pets", "tiny") == OLD
        assert at_one_commit("owner/other") is None and ask_commit("owner/other") == NEW
        now.clear()
        assert at_one_commit("owner/pets") == OLD and at_one_commit("owner/unheard", "v1") == "v1"
        assert ask_commit("owner/unheard", "v1") is None


def test_what_changes_while_it_is_opened_is_refused(now, monkeypatch):
    monkeypatch.setattr(benchmark, "open_rows", lambda benchmark: image_dataset(8))
    monkeypatch.setattr(benchmark, "_commit_of", lambda rows: NEW)
    described = {"class_names": CLASSES, "path": "owner/pets"}
    assert Benchmark("pets", "id", **described).open().several == 0
    with one_commit():
        ask_commit("owner/pets")
        with pytest.raises(OSError, match=f"'owner/pets' changed on the Hub from commit {OLD[:8]} to {NEW[:8]}.*run the command again"):
            Benchmark("pets", "id", **described).open()
        check_commit("owner/pets", None, OLD)
        check_commit("owner/pets", None, None)
        check_commit("owner/pets", NEW, NEW)
        check_commit("a/folder", None, NEW)


@pytest.fixture
def refusing(monkeypatch):
    """A Hub that has data sets of five files and gives no README."""
    error = LocalEntryNotFoundError("It is not in the cache.")
    error.__cause__ = OSError("429 Too Many Requests")

    def refused(*args, **options):
        raise error

    class Api:
        def dataset_info(self, path, revision=None):
            if path == "owner/gone":
                raise OSError("429 too")
            return SimpleNamespace(sha=OLD)

        def list_repo_files(self, path, **options):
            return ["README.md", "train.parquet", "test.parquet"]

    monkeypatch.setattr(hub, "hf_hub_download", refused)
    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub, "out_of_reach", str)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.datasets.config, "HF_DATASETS_OFFLINE", False)
    hub._all_files.cache_clear()
    return error


@pytest.mark.parametrize("ask", [at_one_commit, ask_commit])
def test_a_data_set_without_the_readme_that_it_has_is_not_read(ask, refusing):
    """`datasets` would take it for one that has none."""
    with one_commit():
        with pytest.raises(OSError, match="README.md of the data set 'owner/pets'.*429 Too Many Requests; try again later"):
            ask("owner/pets", "main")
        # What gives nothing at all is refused where it is opened.
        assert ask("owner/gone", "main") == (None if ask is ask_commit else "main")
    with pytest.raises(OSError, match="README.md of the data set 'owner/pets'"):
        at_one_commit("owner/pets")
    refusing.__cause__.response = SimpleNamespace(status_code=404)
    with one_commit():
        assert ask("owner/pets", "main") == (OLD if ask is ask_commit else "main")


@pytest.mark.parametrize("ask", [at_one_commit, ask_commit])
def test_a_busy_hub_does_not_keep_a_data_set_without_a_readme_from_its_cache(ask, refusing, monkeypatch):
    monkeypatch.setattr(hub, "hf_hub_download", lambda *args, **options: (_ for _ in ()).throw(EntryNotFoundError("It has none.")))
    with one_commit():
        assert ask("owner/gone", "main") == (None if ask is ask_commit else "main")
        assert ask("owner/pets", "main") == (OLD if ask is ask_commit else "main")
    assert at_one_commit("owner/gone") is None


@pytest.mark.parametrize("ask", [at_one_commit, ask_commit])
def test_the_hub_is_not_asked_of_which_commit_data_are_that_are_read_from_the_cache_on_purpose(ask, refusing, monkeypatch):
    """HF_DATASETS_OFFLINE, without HF_HUB_OFFLINE: the cache may be of another commit than the Hub."""
    monkeypatch.setattr(hub.datasets.config, "HF_DATASETS_OFFLINE", True)
    with one_commit():
        assert ask("owner/pets", "main") == (None if ask is ask_commit else "main")


def test_files_that_could_not_be_compared_with_the_splits_are_said(refusing, caplog):
    messages.say_once.cache_clear()
    assert hub.unread_files([f"hf://datasets/owner/few@{OLD}/train.parquet"]) == []
    assert "owner/few: whether files of it are in none of its splits could not be found out: 429 Too Many Requests." in caplog.text
