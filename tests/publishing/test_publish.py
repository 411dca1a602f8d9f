# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What of a folder is published, and what is refused before anything is sent. The Hub itself: tests/hub."""

import json

import pytest
import torch
from helpers import tiny_processor
from helpers.reports import report
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors.torch import load_file, save_file

from hf_robustft.cli.publish import described, readable
from hf_robustft.evaluation.detector import OpenSetDetector
from hf_robustft.evaluation.report import save_reports
from hf_robustft.publishing.card_file import write_card
from hf_robustft.publishing.folder import check_files, chosen_files, holds_token, matches, pictures
from hf_robustft.publishing.hub import may_pass, publish, with_retries
from hf_robustft.publishing.metadata import write_robustft_json
from hf_robustft.publishing.progress_card import is_progress_card, write_progress_card

TOKEN = "hf_" + "aB3" * 10
CARD = "---\nlicense: mit\n---\n\n# A model\n\n![](reliability.png)\n<img src='shown.svg'>\n"
MODEL = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "processor_config.json"}


@pytest.fixture
def folder(tmp_path, tiny_clip):
    """A finished folder, and beside it all that a run leaves."""
    tiny_clip.save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    write_robustft_json(tmp_path, method="carot", class_names=["cat"], templates=["a {}."], settings={})
    (tmp_path / "README.md").write_text(CARD)
    for name in (
        *("reliability.png", "shown.svg", "private.png", "evaluation.json", ".eval_results/emoji.yaml", "LICENSE"),
        *("training_args.bin", "optimizer.pt", "log.txt", "README.generated.md", "checkpoint-5/model.safetensors"),
        *("runs/events.out.tfevents.1", "logits/test.safetensors", "sub/config.json", ".env", ".eval_results/notes"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("[]")
    save_reports(tmp_path / "evaluation.json", [report()])
    return tmp_path


BELONGS = MODEL | {"robustft.json", "README.md", "reliability.png", "shown.svg", "evaluation.json", "LICENSE"}


def test_results_that_are_none_are_not_published(folder):
    good = (folder / "evaluation.json").read_text()
    for old, new in (('"accuracy": 0.875', '"accuracy": "0.875"'), ('"n": 1200', '"n": NaN'), ('"reports"', '"rows"')):
        (folder / "evaluation.json").write_text(good.replace(old, new))
        with pytest.raises(ValueError, match="evaluation.json") as caught:
            publish(folder, "user/clip", dry_run=True)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../../pic.png", "a/../../pic.png", "./../pic.png"])
def test_a_card_that_shows_a_picture_elsewhere_is_published_without_it(folder, name):
    (folder.parent / "pic.png").write_text("private")
    (folder / "README.md").write_text(f"{CARD}\n![]({name})\n")
    with pytest.warns(UserWarning, match="outside the folder"):
        publish(folder, "user/clip", dry_run=True)
    assert not any("pic.png" in path for path in chosen_files(folder))


def test_only_what_belongs_goes(folder):
    assert set(chosen_files(folder)) == BELONGS | {".eval_results/emoji.yaml"}
    more = chosen_files(folder, ["runs/*", "log.txt"])
    assert set(more) - set(chosen_files(folder)) == {"runs/events.out.tfevents.1", "log.txt"}
    assert matches("model-00001-of-00002.safetensors", ["model-*-of-*.safetensors"])
    assert not matches("last-checkpoint/model.safetensors", ["model.safetensors", "*.safetensors"])


def test_dry_run_shows_it_and_needs_no_network(folder, capsys):
    from hf_robustft.cli import main

    assert main(["publish", str(folder), "--repo_id", "user/clip", "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert f"Would go from {folder} to user/clip:" in printed and "nothing was uploaded" in printed
    size = (folder / "model.safetensors").stat().st_size
    assert f"model.safetensors {readable(size)}" in " ".join(printed.split())
    left_out = next(line for line in printed.splitlines() if line.startswith("Left out: "))
    assert "training_args.bin" in left_out and "checkpoint-5" in left_out and "README.md" not in left_out
    done = publish(folder, "user/clip", dry_run=True)
    assert done.commit is None and set(done.files) == BELONGS | {".eval_results/emoji.yaml"}
    assert described(done, folder) in printed
    assert [readable(n) for n in (0, 999, 1_000, 1_500_000, 2_000_000_000_000)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "1.5 MB",
        "2000.0 GB",
    ]


def without(name):
    return lambda folder: (folder / name).unlink()


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


def not_finite(folder):
    weights = load_file(folder / "model.safetensors")
    weights["visual_projection.weight"][0, 0] = torch.nan
    save_file(weights, folder / "model.safetensors")


def cut_weights(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])


def lost_part(folder):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def token_in_a_picture(folder):
    (folder / "reliability.png").write_bytes(b"\x89PNG\0\xff" + TOKEN.encode() + b"\0\xff")


def detector_of_other_classes(folder):
    detector = OpenSetDetector.fit(torch.eye(4, 2), class_names=["cat", "dog"], logit_scale=10.0)
    facts = json.loads((folder / "robustft.json").read_text())
    (folder / "robustft.json").write_text(json.dumps({**facts, "detector": detector.to_dict()}))


WRONG_INDEX = "---\nmodel-index:\n- name: x\n  results:\n  - task: 3\n---\n# x\n"


@pytest.mark.parametrize(
    ("spoil", "error", "match"),
    [
        (without("config.json"), OSError, "There is no config.json"),
        (without("model.safetensors"), OSError, "no model.safetensors .*save the model"),
        (without("tokenizer.json"), OSError, "no tokenizer .*processor.save_pretrained"),
        (without("processor_config.json"), OSError, "no image processor"),
        (without("README.md"), OSError, "no README.md .*write_model_card"),
        (without("reliability.png"), OSError, "shows reliability.png, which is missing"),
        (lost_part, OSError, "names model-00001-of-00002.safetensors, which is missing"),
        (cut_weights, OSError, "model.safetensors cannot be read"),
        (not_finite, ValueError, "visual_projection.weight .* is not finite"),
        (text("README.md", "---\nlicense: [\n---\n# x\n"), ValueError, "metadata of .*README.md are not valid"),
        (text("README.md", WRONG_INDEX), ValueError, "metadata of .*README.md are not valid"),
        (text("README.md", "---\nlicense: mit\n---\n"), ValueError, "holds no text"),
        (text("config.json", "{"), ValueError, "config.json is not JSON"),
        (text("robustft.json", "{}"), ValueError, "format"),
        (detector_of_other_classes, ValueError, "detector is for other classes"),
        (text(".eval_results/emoji.yaml", "- 3\n"), ValueError, r"emoji\.yaml is not a list"),
        (text("evaluation.json", f'{{"note": "{TOKEN}"}}'), ValueError, "evaluation.json in .* holds an access token"),
        (token_in_a_picture, ValueError, "reliability.png in .* holds an access token"),
    ],
)
def test_what_is_unfit_is_refused_before_anything_is_sent(folder, spoil, error, match):
    spoil(folder)
    with pytest.raises(error, match=match) as caught:
        publish(folder, "user/clip")
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("edited", [False, True])
def test_a_card_of_ours_is_not_published_without_the_file_it_refers_to(folder, edited):
    (folder / "README.md").unlink()
    write_card(folder, f"{CARD}\nThe detector is in `robustft.json`.\n")
    if edited:
        (folder / "README.md").write_text((folder / "README.md").read_text().replace("# A model", "# My model"))
    publish(folder, "user/clip", dry_run=True)
    (folder / "robustft.json").unlink()
    with pytest.raises(OSError, match="robustft.json, which is missing"):
        publish(folder, "user/clip", dry_run=True)
    (folder / "README.md").write_text("# Mine\n\nWithout `robustft.json`.\n")
    publish(folder, "user/clip", dry_run=True)


def test_a_given_token_is_looked_for_as_it_is(folder, monkeypatch):
    (folder / "LICENSE").write_text('{"x": "odd.token/of a server"}')
    files = chosen_files(folder)
    check_files(folder, files)
    with pytest.raises(ValueError, match="access token"):
        check_files(folder, files, token="odd.token/of a server")
    monkeypatch.setenv("HF_TOKEN", "odd.token/of a server")
    with pytest.raises(ValueError, match="access token"):
        check_files(folder, files)


def test_tokens_are_found_at_any_place(tmp_path):
    path = tmp_path / "file"
    for content, found in ((b"", False), (b"hf_robustft_is_no_token_of_anybody", False), (b"\0" * 5000, False)):
        path.write_bytes(content)
        assert holds_token(path) is found
    for place in (0, 4090, 9000 - len(TOKEN)):
        content = bytearray(9000)
        content[place : place + len(TOKEN)] = TOKEN.encode()
        path.write_bytes(content)
        assert holds_token(path)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"edited_card": "maybe"}, "edited_card='maybe'"),
        ({"retries": -1}, "retries=-1"),
        ({"repo_id": "a/b/c"}, "a/b/c"),
    ],
)
def test_impossible_options_are_refused(folder, options, match):
    with pytest.raises(ValueError, match=match):
        publish(folder, **{"repo_id": "user/clip", **options})


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(OSError, match="no folder '.*nowhere'"):
        publish(tmp_path / "nowhere", "user/clip")


def test_pictures_of_a_card(tmp_path):
    path = tmp_path / "README.md"
    assert pictures(path) == set()
    path.write_text('![a](a.png) ![b](./b.jpg) <img src="c.svg"> ![web](https://x.org/d.png) ![](/e.png) [f](f.txt)')
    assert pictures(path) == {"a.png", "b.jpg", "c.svg"}


class Answer:
    def __init__(self, status, headers=()):
        self.status_code, self.headers, self.request, self.text = status, dict(headers), None, ""


def hub_error(status, kind=HfHubHTTPError, **headers):
    return kind(f"status {status}", response=Answer(status, {k.replace("_", "-"): v for k, v in headers.items()}))


def test_errors_that_may_pass_are_repeated(monkeypatch):
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    errors = [hub_error(500), hub_error(429, Retry_After="7"), ConnectionResetError(), json.JSONDecodeError("", "", 0)]

    def call():
        if errors:
            raise errors.pop(0)
        return "done"

    assert with_retries(call, "It") == "done"
    assert waits == [1, 8, 4, 8]
    for error in (hub_error(403), hub_error(404, RepositoryNotFoundError), ValueError("no"), OSError("disk full")):
        assert not may_pass(error)
        errors.append(error)
        with pytest.raises(type(error)):
            with_retries(call, "It")
    assert len(waits) == 4
    errors += [hub_error(503) for _ in range(3)]
    with pytest.raises(HfHubHTTPError):
        with_retries(call, "It", retries=2)
    offline = LocalEntryNotFoundError("not in the cache")
    assert not may_pass(offline)
    offline.__cause__ = hub_error(502)
    assert may_pass(offline)


def test_the_card_of_an_unfinished_run(tmp_path):
    facts = {"title": "a <b>", "method": "carot", "step": 1000, "total_steps": 2000}
    path = write_progress_card(tmp_path, **facts, base_model="openai/clip-vit-base-patch16", trained_on=["x | y"])
    card = path.read_text()
    assert is_progress_card(tmp_path)
    assert "# a &lt;b&gt;" in card and "after step 1,000 of 2,000" in card and "Nothing was evaluated yet" in card
    assert "base_model: openai/clip-vit-base-patch16" in card and "x \\| y" in card
    write_progress_card(tmp_path, **{**facts, "step": 2000}, base_model="/home/somebody/models/mine")
    card = path.read_text()
    assert "not measured" in card and "`mine`" in card and "somebody" not in card and "Unfinished" not in card
    path.write_text(CARD)
    assert not is_progress_card(tmp_path)
    with pytest.warns(UserWarning, match="edited by hand"):
        write_progress_card(tmp_path, **facts)
    assert path.read_text() == CARD
