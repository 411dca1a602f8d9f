# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a command line says of data: names of the registry, their sets and roles, one's own copies and one's own data."""

import io
import tarfile
from types import SimpleNamespace

import pytest
from datasets import Value
from helpers import CLASSES, TEMPLATES, image_dataset
from helpers.streams import write_folders, write_parquet, write_tars
from helpers.stub_hub import class_folders, quietly, table

from hf_robustft import cli
from hf_robustft.cli.data_sets import (
    DataOptions,
    Known,
    check_columns,
    default_evaluation,
    evaluation_benchmarks,
    model_classes,
    notes_on_validation,
    train_benchmark,
    validation_benchmark,
)
from hf_robustft.cli.specs import Spec, own_columns
from hf_robustft.cli.train_arguments import parse
from hf_robustft.data import hub as hub_ids
from hf_robustft.data.benchmarks import load_benchmark
from hf_robustft.data.catalog.sets import named_templates

pytest_plugins = ("helpers.stub_hub",)
KNOWN = Known(CLASSES, TEMPLATES)


def measured(*texts, known=None, **options):
    return evaluation_benchmarks(texts, DataOptions(**options), known)


def roles(*texts, **options):
    return {item.name: item.role for item in measured(*texts, **options)[0]}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("imagenet-r", ("imagenet-r", None, None, None, True)),
        ("dtd:open_set", ("dtd", None, None, "open_set", True)),
        ("pacs-sketch/id", ("pacs-sketch", "id", None, None, True)),
        ("vlcs-sun=/data/VLCS:shift", ("vlcs-sun", None, "/data/VLCS", "shift", True)),
        ("imagenet-seen-unseen-seed7", ("imagenet-seen-unseen-seed7", None, None, None, True)),
        ("owner/name", ("owner/name", None, None, None, False)),
        ("owner/name/test:shift", ("owner/name", "test", None, "shift", False)),
        ("no/such/folder/at/all", ("no/such/folder/at/all", None, None, None, False)),
        ("C:/photos", ("C:/photos", None, None, None, False)),
        ("a=b", ("a=b", None, None, None, False)),
    ],
)
def test_what_a_text_says(text, expected):
    spec = Spec.parse(text)
    assert (spec.source, spec.part, spec.copy, spec.role, spec.registered) == expected


@pytest.mark.parametrize(
    "text, hint",
    [
        ("photos:shfit", "photos:shift"),
        ("photos/test:Shift", "photos/test:shift"),
        ("imagenet-r:open-set", "imagenet-r:open_set"),
        ("dtd=/data/dtd:validate", "dtd=/data/dtd:validation"),
        ("photos:ood", None),
        ("photos:", None),
    ],
)
def test_a_mistyped_role_is_named_with_the_roles(text, hint):
    with pytest.raises(ValueError, match="there is no role .* id .*, shift, validation and open_set") as error:
        Spec.parse(text)
    assert ("did you mean" in str(error.value)) == (hint is not None) and (hint or "") in str(error.value)


def test_names_with_dots_are_not_cut(tmp_path):
    for name in ("v1.0", "v1.1"):
        write_folders(tmp_path / name, [4])
        assert Spec.parse(str(tmp_path / name)).name == name
    write_parquet(tmp_path / "p", [3])
    (tmp_path / "p" / "train-00000-of-00001.parquet").rename(tmp_path / "v1.2.parquet")
    assert Spec.parse(str(tmp_path / "v1.2.parquet")).name == "v1.2"
    assert Spec.parse("owner/photos-v1.0").name == "photos-v1.0"
    assert [item.name for item in measured(f"{tmp_path}/v1.0", f"{tmp_path}/v1.1:shift")[0]] == ["v1.0", "v1.1"]


def test_a_folder_called_like_a_registered_benchmark_is_not_passed_over_in_silence(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    write_folders(tmp_path / "dtd", [4])
    assert load_benchmark("dtd", "test").path == "tanganke/dtd"
    assert "'dtd' here is not read: to read it, write ./dtd" in caplog.text and "dtd=dtd" in caplog.text
    assert load_benchmark("./dtd").class_names == tuple(sorted(CLASSES)) and not Spec.parse("./dtd").registered


def test_a_mistyped_path_is_refused_at_once_without_the_hub(tmp_path, monkeypatch):
    """Its own client asks the Hub six times, 23 seconds, for each question."""
    monkeypatch.chdir(tmp_path)
    write_folders(tmp_path / "photos" / "train", [4])
    monkeypatch.setattr(hub_ids.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_ids, "_reached", set())
    asked = []

    def fail(url, timeout):
        asked.append((url, timeout))
        raise ConnectionError("no network")

    monkeypatch.setattr(hub_ids, "get_session", lambda: SimpleNamespace(head=fail))
    for attempt in (lambda text: train_benchmark(text, DataOptions()), load_benchmark):
        with pytest.raises(FileNotFoundError, match="did you mean photos/train?"):
            attempt("photos/trian")
        assert not asked
        with pytest.raises(
            OSError, match="folder 'phots/train' here, and it cannot be loaded from the Hub.*: no network"
        ):
            attempt("phots/train")
        assert len(asked) == 1 and asked.pop()[1] <= 5
    # Nothing else is asked offline either.
    monkeypatch.setattr(hub_ids.constants, "HF_HUB_OFFLINE", True)
    for path, there in (("photos/trian", "photos/train"), ("phots/train", "photos/train"), ("my/photos", "photos")):
        with pytest.raises(OSError, match=f"did you mean {there}?"):
            load_benchmark(path)


@pytest.mark.parametrize("command", ["train", "train --method auto", "compare", "evaluate emoji_clip"])
def test_a_command_waits_once_for_a_hub_that_does_not_answer(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(hub_ids.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_ids, "_reached", set())
    asked = []

    def fail(url, timeout):
        asked.append(timeout)
        raise ConnectionError("no network")

    monkeypatch.setattr(hub_ids, "get_session", lambda: SimpleNamespace(head=fail))
    sets = [] if command.startswith("evaluate") else ["--train_dataset", "nowhere/x"]
    # Each command by itself: somebody may have mended the connection.
    for _ in range(2):
        assert cli.main([*command.split(), *sets, "--eval_datasets", "nowhere/y", "nowhere/z", "--use_cpu", "--output_dir", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert "No folder 'nowhere/" in error and "no network" in error and "correct the path" in error
        assert len(asked) == 1 and asked.pop() <= 5


def test_splits_behind_a_path(tmp_path):
    write_parquet(tmp_path / "own", [3], "train")
    write_parquet(tmp_path / "own", [2], "test")
    spec = Spec.parse(f"{tmp_path}/own/test:shift")
    assert (spec.source, spec.part, spec.name) == (f"{tmp_path}/own", "test", "test")
    options = DataOptions()
    assert len(train_benchmark(f"{tmp_path}/own", options).load()) == 3
    (found,), _ = measured(f"{tmp_path}/own")
    assert len(found.load()) == 2 and found.name == "own"
    for split in ("Training_Set", "Test"):
        write_folders(tmp_path / "like" / split, [4])
    assert train_benchmark(f"{tmp_path}/like", options).split == "Training_Set"
    assert measured(f"{tmp_path}/like")[0][0].split == "Test"
    # To validate on, what is called so, where there is one; another split is named.
    (found,), notes = measured(f"{tmp_path}/own:validation")
    assert found.split == "test" and any("own:validation" in note and "'test'" in note for note in notes)
    write_folders(tmp_path / "like" / "Val", [5])
    assert measured(f"{tmp_path}/like:validation")[0][0].split == "Val" and measured(f"{tmp_path}/like")[0][0].split == "Test"
    both, notes = measured(f"{tmp_path}/like", f"{tmp_path}/like:validation")
    assert [(item.name, item.role, item.split) for item in both] == [("Test", "id", "Test"), ("Val", "validation", "Val")]
    assert not any("has no split" in note for note in notes)
    for twice in (("own", "own:validation"), ("like/", "like:shift"), ("own/test", "own")):
        with pytest.raises(ValueError, match="are the same data"):
            measured(*(f"{tmp_path}/{text}" for text in twice))
    write_parquet(tmp_path / "odd", [3], "train")
    write_parquet(tmp_path / "odd", [2], "validation")
    with pytest.raises(ValueError, match="has the splits 'train', 'validation'; choose one, such as .*/odd/train"):
        measured(f"{tmp_path}/odd")


def test_sets_called_like_validation_images_without_the_role_are_named():
    names = ("my/val", "my/test", "Validation.parquet", "my/dev:shift", "emoji_shift/validation")
    said = notes_on_validation(names, DataOptions())
    assert len(said) == 2 and "give my/val:validation" in said[0] and "give Validation.parquet:validation" in said[1]
    assert not notes_on_validation([*names, "more:validation"], DataOptions())
    assert not notes_on_validation(names, SimpleNamespace(hold_out=0.1))


def test_registered_names_have_their_roles():
    assert roles("imagenet-1k", "imagenet-v2", "imagenet-r", "imagenet-a", "imagenet-sketch", "objectnet") == {
        "imagenet-1k": "id",
        **dict.fromkeys(("imagenet-v2", "imagenet-r", "imagenet-a", "imagenet-sketch", "objectnet"), "shift"),
    }
    assert roles("pacs-sketch") == {"pacs-id": "id", "pacs-sketch": "shift"}
    assert roles("pacs-sketch/validation", "dtd:open_set") == {"pacs-validation": "validation", "dtd": "open_set"}
    assert set(roles("imagenet-seen-unseen").values()) == {"id", "shift", "open_set"}
    assert roles("imagenet-v2:id") == {"imagenet-v2": "id"}
    assert "train" not in roles("emoji_shift") and roles("emoji_shift/train") == {"train": "train"}
    with pytest.raises(
        ValueError, match="pacs-sketch has the sets 'id', 'sketch', each with its own role.*pacs-sketch/id:shift"
    ):
        roles("pacs-sketch:shift")
    with pytest.raises(ValueError, match="has no set 'photos'; its sets are"):
        roles("pacs-sketch/photos")
    with pytest.raises(ValueError, match="Two evaluation sets are called imagenet-r"):
        roles("imagenet-r", "imagenet-shifts")


@pytest.mark.parametrize("text", ["objectnet:validation", "objectnet=my/mirror:validation"])
def test_objectnet_is_not_tuned_on(text):
    with pytest.raises(ValueError, match="may never be trained or tuned on"):
        roles(text)
    with pytest.raises(ValueError, match="may never be trained or tuned on"):
        train_benchmark("objectnet", DataOptions())


def test_what_is_trained_on():
    options = DataOptions()
    assert train_benchmark("imagenet-1k", options).name == "imagenet-1k-train"
    assert train_benchmark("dtd/train", options).name == "dtd-train"
    assert train_benchmark("pacs-photo", options).role == "train"
    for text, message in (
        ("imagenet-v2", "imagenet-v2 has only 'test'"),
        ("dtd/test", "dtd has 'train'"),
        ("imagenet-1k:id", "data to train on have no role"),
    ):
        with pytest.raises(ValueError, match=message):
            train_benchmark(text, options)
    with pytest.raises(ValueError, match="`--class_names` describes your own training data"):
        train_benchmark("imagenet-1k", DataOptions(class_names="names.txt"))
    with pytest.raises(ValueError, match="`--caption_column` describes"):
        train_benchmark("imagenet-1k", options, caption_column="text")


def test_validation_and_test_sets_of_the_suite_by_default():
    options = DataOptions()
    assert validation_benchmark("pacs-sketch", options, []).name == "pacs-validation"
    assert validation_benchmark("imagenet-1k", options, []) is None
    assert validation_benchmark("photos", options, []) is None
    given = load_benchmark("emoji_shift", "validation")
    assert validation_benchmark("pacs-sketch", options, [given]) is given
    assert default_evaluation("dtd/train") == ["dtd"] and default_evaluation("vlcs-sun=/v") == ["vlcs-sun=/v"]
    assert default_evaluation("photos/train") == []


def test_templates_by_name_and_by_file(tmp_path):
    seven = named_templates("imagenet-croft-7")
    for item in [train_benchmark("imagenet-1k", DataOptions(templates="imagenet-croft-7")),
                 *measured("imagenet-r", templates="imagenet-croft-7")[0]]:  # fmt: skip
        assert item.templates == seven
    (tmp_path / "prompts.txt").write_text("my {}.\n")
    assert measured("dtd", templates=str(tmp_path / "prompts.txt"))[0][0].templates == ("my {}.",)
    assert model_classes(DataOptions(templates="imagenet-croft-7"), ["a", "b"], ["{}"]).templates == seven
    assert model_classes(DataOptions(), (), ()) is None
    (tmp_path / "names.txt").write_text("n1\tcat\nn2\tdog\n")
    found = model_classes(DataOptions(class_names=str(tmp_path / "names.txt")), ["a", "b"], ["my {}."])
    assert found == Known(("cat", "dog"), ("my {}.",), ("n1", "n2"))


def test_ones_own_copy_of_a_registered_set(tmp_path, hub):
    names = load_benchmark("eurosat", "test").class_names
    class_folders(tmp_path / "eurosat" / "train", names[:2])
    class_folders(tmp_path / "eurosat" / "test", names[1:2], 3)
    text = f"eurosat={tmp_path}/eurosat"
    assert len(train_benchmark(text, DataOptions()).load()) == 4
    (found,), notes = measured(text, known=KNOWN)
    assert found.load()["label"] == [1, 1, 1] and not hub.asked
    assert notes == ["eurosat: its 10 classes are not the 4 of the model, so it is classified by its own prompts"]
    hub.tables["me/dtd"] = table([3], Value("int64"))
    (found,), _ = measured("dtd=me/dtd:open_set")
    with pytest.warns(UserWarning, match="does not say what it calls its classes"):
        assert quietly(found)["label"] == [3] and found.role == "open_set"
    with pytest.raises(ValueError, match="the path of your copy is missing"):
        measured("dtd=")


def test_own_sets_are_matched_by_name_and_named_apart(tmp_path):
    for outer in ("a", "b"):
        for row_number, row in enumerate(image_dataset(6, classes=("owl", "cat", "dog"))):
            folder = tmp_path / outer / "test" / ("owl", "cat", "dog")[row["label"]]
            folder.mkdir(parents=True, exist_ok=True)
            row["image"].save(folder / f"{row_number}.png")
    found, notes = measured(f"{tmp_path}/a/test", f"{tmp_path}/b/test:shift", known=KNOWN)
    assert [(item.name, item.role, item.class_names) for item in found] == [
        ("a-test", "id", CLASSES),
        ("b-test", "shift", CLASSES),
    ]
    assert notes[0] == "a-test: images of 3 of the 4 classes, none of 'bee'"
    # Without a model's classes the first in-distribution set says what there is to tell apart.
    found, _ = measured(f"{tmp_path}/a/test", f"{tmp_path}/b/test:shift")
    assert {item.class_names for item in found} == {("cat", "dog", "owl")}
    with pytest.raises(
        ValueError, match="is an open set, but it has images of 'cat', 'dog', 'owl', which the model knows"
    ):
        measured(f"{tmp_path}/a/test:open_set", known=KNOWN)


def test_tars_need_no_columns(tmp_path):
    write_tars(tmp_path / "own", [4], "test")
    (tmp_path / "own" / "classnames.txt").write_text("bee\nowl\ndog\ncat\n")
    for streaming in (False, True):
        (found,), _ = measured(f"{tmp_path}/own", known=KNOWN, streaming=streaming)
        assert (found.image_column, found.label_column, found.streaming) == ("png", "cls", streaming)
        rows = found.stream() if streaming else found.load()
        assert [row["label" if streaming else "cls"] for row in rows] == [3, 2, 1, 0]
    assert train_benchmark(f"{tmp_path}/own/test", DataOptions()).class_names == ("bee", "owl", "dog", "cat")


def test_one_of_two_images_in_a_tar_is_named_alone(tmp_path):
    write_tars(tmp_path / "own", [4], "test", image="JPG")
    (found,), _ = measured(f"{tmp_path}/own", known=KNOWN)
    assert (found.image_column, found.label_column, len(found.load())) == ("JPG", "cls", 4)
    with tarfile.open(tmp_path / "own" / "test" / "00000.tar", "a") as tar:
        for row in range(4):
            member = tarfile.TarInfo(f"000{row:05d}.png")
            tar.addfile(member, io.BytesIO())
    with pytest.raises(ValueError, match="of which 2 are images; name the one to read with --image_column"):
        measured(f"{tmp_path}/own", known=KNOWN)
    spec = Spec.parse(f"{tmp_path}/own")
    assert own_columns(spec, {"image_column": "png"}) == {"image_column": "png", "label_column": "cls"}


def test_columns_are_those_of_the_sets_that_have_columns(tmp_path):
    folders = str(write_folders(tmp_path / "photos", (8,)))
    image_dataset(8).rename_columns({"image": "photo", "label": "kind"}).to_parquet(str(tmp_path / "more.parquet"))
    given = {"image_column": "photo", "label_column": "kind"}
    found, _ = measured(folders, str(tmp_path / "more.parquet"), known=KNOWN, **given)
    assert [(item.image_column, item.label_column, len(item.load())) for item in found] == [
        ("image", "label", 8),
        ("photo", "kind", 8),
    ]
    assert len(train_benchmark(folders, DataOptions(**given)).load()) == 8
    check_columns([folders, str(tmp_path / "more.parquet"), None], DataOptions(**given))
    check_columns([folders, "emoji_shift"], DataOptions())
    with pytest.raises(ValueError, match="--image_column photo.*'emoji_shift'"):
        check_columns([folders, "emoji_shift", None], DataOptions(**given))


def test_flags_of_the_job():
    flags = ["--use_cpu", "--train_dataset", "pacs-sketch", "--streaming", "--bad_images_threshold", "0.05"]
    _, data, _ = parse([*flags, "--eval_datasets", "pacs-sketch", "dtd:open_set"])
    assert data.streaming and (data.bad_images, data.bad_images_threshold) == ("skip", 0.05)
    assert data.policy().threshold == 0.05
    train = train_benchmark(data.train_dataset, data, data.caption_column)
    assert train.streaming and train.name == "pacs-train"
    found, _ = evaluation_benchmarks(data.eval_datasets, data, Known.of(train))
    assert [(item.name, item.streaming) for item in found] == [("pacs-id", True), ("pacs-sketch", True), ("dtd", True)]
    assert validation_benchmark(data.train_dataset, data, found).streaming
    with pytest.raises(ValueError, match="`--bad_images ignore` is unknown; choose one of skip, error"):
        parse(["--use_cpu", "--bad_images", "ignore"])
    _, data, _ = parse(["--use_cpu", "--train_dataset", "pacs-sketch"])
    found, _ = evaluation_benchmarks(default_evaluation(data.train_dataset), data, Known.of(train))
    assert [item.name for item in found] == ["pacs-id", "pacs-sketch"]


def test_folders_around_the_working_folder_are_called_by_their_names(tmp_path, monkeypatch):
    write_folders(tmp_path / "photos", (8,))
    monkeypatch.chdir(tmp_path / "photos" / CLASSES[0])
    assert [Spec.parse(text).name for text in (".", "..", "../..")] == [CLASSES[0], "photos", tmp_path.name]
