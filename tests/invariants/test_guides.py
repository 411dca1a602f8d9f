# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""README and guides: each command and each Python block runs as printed, in few steps; links lead somewhere; numbers are those of the cards."""

import importlib
import re
import shutil
from pathlib import Path

import pytest
from helpers import arguments, image_dataset, tiny_processor
from helpers.cards import table_of_results
from helpers.commands import blocks, commands, parts, run

from hf_robustft import load_benchmark
from hf_robustft.cli.description import Description
from hf_robustft.cli.train_arguments import parse
from hf_robustft.modeling.families import FAMILIES
from hf_robustft.publishing.card_file import is_untouched

REPOSITORY = Path(__file__).resolve().parents[2]
GUIDES = sorted((REPOSITORY / "examples" / "guides").glob("*.md"))
CARDS = REPOSITORY / "model_cards"
PAGES = [REPOSITORY / "README.md", REPOSITORY / "examples" / "README.md", CARDS / "README.md", *GUIDES]
ANIMALS = (
    "dog",
    "cat",
    "horse",
    "koala",
    "panda",
    "chicken",
    "penguin",
    "snake",
    "dolphin",
    "snail",
    "bug",
    "octopus",
)
#: Folders of the guides, the sets of Emoji Shift that they are cut from, and the images per class.
FOLDERS = {
    "my_images/train": ("train", 4),
    "my_images/validation": ("validation", 3),
    "my_images/test": ("noto", 3),
    "my_sketches": ("openmoji", 2),
    "something_else": ("open_set", 2),
}
#: What is not run here, by a part of the command: the Hub is not reached (tests/hub runs such commands against stand-ins).
ON_THE_HUB = re.compile(r"imagenet|objectnet|pacs|vlcs|few-shot|--push_to_hub")
#: Minutes on Emoji Shift become seconds on the folders, and fewer images are written.
SMALLER = {
    "class_names[:20]": "class_names[:2]",
    "outputs/carot": "outputs/animals",
    "emoji_shift/validation": "my_images/validation",
    "--eval_datasets emoji_shift": "--eval_datasets my_images/test",
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory, script):
    """A user's working directory: folders of images, and a model trained on them."""
    folder = tmp_path_factory.mktemp("desk")
    for path, (key, count) in FOLDERS.items():
        benchmark = load_benchmark("emoji_shift", key)
        wanted = ANIMALS if key != "open_set" else benchmark.class_names[:5]
        left = {name: count for name in wanted}
        data = benchmark.load()
        for number, label in enumerate(data["label"]):
            name = benchmark.class_names[label]
            if left.get(name, 0):
                left[name] -= 1
                (folder / path / name).mkdir(parents=True, exist_ok=True)
                data[number]["image"].save(folder / path / name / f"{number}.png")
    (folder / "photos").mkdir()
    for number, image in enumerate(sorted((folder / "my_images" / "test").rglob("*.png"))[:3]):
        shutil.copy(image, folder / "photos" / f"{number}.png")
    (folder / "names.txt").write_text("cat\ndog\nhouse\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(
            "hf-robustft train --train_dataset my_images/train --output_dir outputs/animals "
            "--eval_datasets my_images/test my_images/validation:validation my_sketches:shift something_else:open_set",
            script,
            folder,
        )
    return folder


#: Changes the package: test_add_an_objective.py applies it to a copy.
CHANGES_THE_PACKAGE = "add_an_objective"


#: Five seconds to half a minute each; what their commands do is tested beside them, and `test_flags_of_long_guides` reads their
#: flags: `python -m pytest -m slow tests/invariants/test_guides.py`.
LONG = ("accuracy_collapsed", "after_training", "baselines_with_a_head", "calibration", "export", "heads_on_frozen_encoders")
LONG += ("methods_and_papers", "reading_a_report", "resuming", "several_processes", "streaming")
LONG += ("verifying", "which_threshold", "your_own_data")


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if page.stem in LONG else (), id=page.stem)
        for page in (PAGES[0], *GUIDES)
        if page.stem != CHANGES_THE_PACKAGE
    ],
)
def test_commands_and_python_blocks_run(page, desk, script, tmp_path, monkeypatch):
    text = page.read_text(encoding="utf-8")
    folder = tmp_path / "desk"
    shutil.copytree(desk, folder)
    monkeypatch.chdir(folder)
    printed = commands(text)
    if page.name == "README.md":
        # The two commands of the first section are .ci/run's and the quick start, the Python blocks those of test_readme.
        printed = [command for command in printed if not command.startswith("pip install")]
    python = [] if page.name == "README.md" else blocks(text, "python")
    assert printed or python
    for command in printed:
        if ON_THE_HUB.search(command):
            check_flags(command)
        else:
            run(smaller(command), script, folder)
    names = {}
    for block in python:
        exec(compile(block, page.name, "exec"), names)


def test_an_objective_of_your_own_is_a_term_of_the_loss(tiny_clip, tmp_path):
    guide = next(page for page in GUIDES if page.stem == "methods_and_papers")
    names = {}
    exec(compile(blocks(guide.read_text(encoding="utf-8"), "python")[-1], guide.name, "exec"), names)
    # With the settings that its objectives declare.
    trainer = names["MyTrainer"](
        tiny_clip, arguments(tmp_path), train_dataset=image_dataset(8), processing_class=tiny_processor()
    )
    batch = next(iter(trainer.get_train_dataloader()))
    terms = trainer.loss_terms(trainer.encode_global(trainer.model, batch), batch)
    assert list(terms) == ["contrastive", "cross_frobenius", "orthogonality", "small_scale"]
    assert terms["small_scale"].item() == pytest.approx(1e-3 * tiny_clip.logit_scale.exp().item())


def smaller(command: str) -> str:
    """The same command on the folders, where it is printed for Emoji Shift."""
    for printed, instead in SMALLER.items():
        command = command.replace(printed, instead)
    called, flags = parts(command)
    if called in ("script", "train") and "--train_dataset" not in flags:
        command += " --train_dataset my_images/train --eval_datasets my_images/test my_images/validation:validation"
    return command


def check_flags(command: str) -> None:
    """The flags of a command that would reach the Hub are understood, and its data sets known."""
    called, flags = parts(command)
    if called in ("script", "train"):
        parse([*flags, "--use_cpu"])
    sets = flags[flags.index("--eval_datasets") + 1 :] if "--eval_datasets" in flags else []
    for name in sets[: next((i for i, word in enumerate(sets) if word.startswith("--")), None)]:
        assert load_benchmark(name), name


@pytest.mark.parametrize("name", LONG)
def test_flags_of_long_guides(name):
    """Every flag and value that they print is one that the command takes."""
    text = next(page for page in GUIDES if page.stem == name).read_text(encoding="utf-8")
    described = Description.of_what_is_installed()
    read = [described.parser("train" if called == "script" else called, True).parse_args(flags) for called, flags in map(parts, commands(text)) if called != "shell"]
    assert len(read) >= 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name + "/" + page.name)
def test_links_and_mentioned_files_exist(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?:)([^)]*)\)", text)
    for target in targets:
        path, _, heading = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, target
    made = set(re.findall(r"^`(\S+)`(?= proves|:$)", text, flags=re.MULTILINE))
    for mentioned in set(re.findall(r"(?:examples|tests)/[\w./]+\w", text)) - made:
        assert (REPOSITORY / mentioned).exists(), mentioned
    for script, flags in re.findall(r"python (examples/\S+\.py)([^`\n]*)", text):
        source = (REPOSITORY / script).read_text(encoding="utf-8")
        for flag in re.findall(r"--\w+", flags):
            assert f'"{flag}"' in source, f"{script} {flag}"


def test_every_guide_is_short_and_linked_from_the_readme():
    readme = PAGES[0].read_text(encoding="utf-8")
    for guide in GUIDES:
        text = guide.read_text(encoding="utf-8")
        title = text.splitlines()[0]
        assert title.startswith("# ")
        assert f"[{title[2:]}](examples/guides/{guide.name})" in readme
        # Three minutes: prose at 240 words a minute. Tables and listings are looked up.
        prose = re.sub(r"^ *```.*?^ *```|^\|.*?$", "", text, flags=re.DOTALL | re.MULTILINE)
        assert len(prose.split()) <= 720, f"{guide.name}: {len(prose.split())} words"


def test_no_page_and_no_help_knows_fewer_families_than_there_are():
    table = PAGES[0].read_text(encoding="utf-8").partition("## Models")[2].partition("\n## ")[0]
    assert len(re.findall(r"^\|`\w+`", table, flags=re.MULTILINE)) == len(FAMILIES) == 9, "where it says nine"
    helps = REPOSITORY / "hf_robustft" / "cli" / "flags.json"
    for page in (*PAGES, helps):
        assert not re.search(r"CLIP or MetaCLIP|(?<!nine) families\]", page.read_text(encoding="utf-8")), page.name


def rows_of(path: Path) -> dict[str, list[set[str]]]:
    """The cells of each table row by its first cell; bold is left out."""
    found: dict[str, list[set[str]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("| ") and not line.startswith("| method |"):
            first, *cells = (cell.strip().strip("*") for cell in line.strip("|").split("|"))
            found.setdefault(first.strip(), []).append(set(cells))
    return found


@pytest.mark.parametrize(
    "page", [PAGES[0], *(page for page in GUIDES if page.stem in ("results", "evidence"))], ids=lambda page: page.stem
)
def test_numbers_in_tables_are_those_of_the_comparisons(page):
    cards = [rows_of(CARDS / name) for name in ("emoji_shift_comparison.md", "emoji_shift_open_set.md", "evidence/evidence.md", "evidence/seeds/evidence.md")]
    compared = 0
    for method, rows in rows_of(page).items():
        known = set().union(*(cells for card in cards for cells in card.get(method, [])))
        for cells in rows if known else []:
            assert cells <= known, f"{method}: {sorted(cells - known)} in {page.name} only"
            compared += 1
    assert compared >= 6


@pytest.mark.parametrize("card", sorted(CARDS.glob("*/README.md")), ids=lambda card: card.parent.name)
def test_model_cards_are_as_their_runs_wrote_them(card):
    text, folder = card.read_text(encoding="utf-8"), card.parent
    assert is_untouched(card) and f"\n# {folder.name}\n" in text
    shown = set(re.findall(r"\]\(([\w.]+\.png)\)", text))
    assert shown == {path.name for path in folder.iterdir()} - {"README.md"}
    assert f"]({folder.name}/README.md)" in (CARDS / "README.md").read_text(encoding="utf-8")
    (command,) = (parts(command)[1] for command in commands(text) if "run_robust_ft.py" in command)
    assert parse([*command, "--use_cpu"])[0].method == folder.name


def test_the_quick_start_prints_what_its_card_says():
    text = next(page for page in GUIDES if page.stem == "results").read_text(encoding="utf-8")
    printed = re.search(r"^```\n(zero-shot → .*?)^```", text, re.DOTALL | re.MULTILINE)[1]
    start, model = printed.splitlines()[0].split(" → ")
    lines = {re.split(r"  +", line.strip())[0].removesuffix(" (ID)"): line for line in printed.splitlines() if line.strip()}
    rows = table_of_results((CARDS / model.lower() / "README.md").read_text(encoding="utf-8"))
    for name in {name for name, _ in rows}:
        before, after = ([cell.replace("± ", "±") for cell in rows[name, who][1:]] for who in (start, model))
        cells = [f"{old.split()[0]} → {new}" for old, new in zip(before, after, strict=True)]
        assert re.split(r"  +", lines[name].strip())[1:] == cells, name
    inside, shifts = (re.findall(r"([\d.]+) → ([\d.]+)", lines[name]) for name in ("noto", "mean of 4 shifts"))
    told = rows_of(PAGES[0])
    for row, side in (("before", 0), ("after", 1)):
        (cells,) = told[row]
        assert cells == {inside[0][side], *(pair[side] for pair in shifts[:3])}


def test_the_table_of_the_quick_start_is_put_in_its_place(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "examples")
    with_table = importlib.import_module("make_model_cards").with_table
    page = "text\n\n```\nother\n```\n\n```\nzero-shot → Old\n\n set\n```\n\nmore\n"
    changed = with_table(page, "zero-shot → New")
    assert changed == page.replace("Old\n\n set", "New") and with_table(changed, "zero-shot → New") == changed
    with pytest.raises(ValueError, match="0 listings"):
        with_table("nothing", "zero-shot → New")
