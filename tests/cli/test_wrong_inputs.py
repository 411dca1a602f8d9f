# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Wrong inputs, one a row: exit status 2, one line on standard error that names what to change, no model loaded."""

import json
import os
import re
import resource
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from hf_robustft import cli
from hf_robustft.cli import COMMANDS, endings, main
from hf_robustft.cli.describe import as_text, describe
from hf_robustft.cli.description import (
    _FILES_OF_TRANSFORMERS,
    FLAGS_FILE,
    Description,
    transformers_hash,
    transformers_version,
)
from hf_robustft.cli.endings import BROKEN_PIPE, INTERRUPTED, TERMINATED, WRONG, how_to_go_on, one_line, run
from hf_robustft.cli.first_look import first_look
from hf_robustft.cli.parser import UsageError
from hf_robustft.cli.train_arguments import train_parser

EVALUATE, CALIBRATE, PUBLISH = (
    "evaluate emoji_clip --eval_datasets emoji_shift",
    "calibrate {folder} --dataset emoji_shift",
    "publish {folder} --repo_id a/b",
)
#: A Transformers that declares other flags than that of `constraints.txt` is not described: the real parsers are asked.
DESCRIBED = json.loads(FLAGS_FILE.read_text(encoding="utf-8"))["transformers_hash"] == transformers_hash()
usual_flags = pytest.mark.skipif(not DESCRIBED, reason="flags.json describes other flags of Transformers")
#: Seconds of a processor in which a wrong command line is answered.
LIMIT = 2 if DESCRIBED else 30
#: A command line and what its error must hold. {tmp} is a folder with the files below.
ROWS = [
    # Commands
    ("", "train, evaluate, compare, calibrate, publish"),
    ("evalute emoji_clip", "did you mean evaluate"),
    ("Publish {folder}", "did you mean publish"),
    ("evaluate", "MODEL"),
    ("evaluate emoji_clip", "--eval_datasets"),
    ("publish {folder}", "--repo_id"),
    # Flags
    ("train --lr 1e-3", "did you mean --learning_rate?"),
    ("train --warmup_ratio 0.1", "did you mean --warmup_steps?"),
    ("train --evaluation_strategy epoch", "did you mean --eval_strategy?"),
    ("train --batch-size 32", "did you mean --per_device_train_batch_size?"),
    ("train --epochs=3", "did you mean --num_train_epochs?"),
    (f"{EVALUATE} --workers 3", "did you mean --num_workers?"),
    ("train --learning_rat 1e-3", "did you mean --learning_rate"),
    ("train --learnig-rate 1e-3", "did you mean --learning_rate"),
    ("train --LEARNING_RATE 1e-3", "did you mean --learning_rate"),
    ("train -learning_rate 1e-3", "did you mean --learning_rate"),
    ("train \u2013\u2013learning_rate 1e-3", "did you mean --learning_rate"),
    ("train \u2014learning_rate=1e-3", "did you mean --learning_rate"),
    ("train learning_rate=1e-3", "did you mean --learning_rate 1e-3"),
    ("train learning_rate 1e-3", "did you mean --learning_rate"),
    ("train --eval emoji_shift", "--eval_datasets"),
    ("train --train_datset a", "did you mean --train_dataset"),
    ("train --no_feature_shift", "did you mean --no_feature_shifts"),
    ("train --completely_unheard_of 1", "--help"),
    (f"{EVALUATE} --eval_dataset dtd", "did you mean --eval_datasets"),
    (f"{EVALUATE} --use_cp", "did you mean --use_cpu"),
    ("evaluate emoji_clip --eval_dataset emoji_shift", "did you mean --eval_datasets"),
    (f"{CALIBRATE} --batchsize 3", "did you mean --batch_size"),
    (f"{PUBLISH} --dryrun", "did you mean --dry_run"),
    (f"{EVALUATE} --eval_datasets dtd", "`--eval_datasets` is given twice"),
    ("train outputs/carot", "outputs/carot belongs to no flag"),
    (f"{PUBLISH} another", "another belongs to no flag"),
    # Values
    ("train --learning_rate", "`--learning_rate` needs a number"),
    ("train --output_dir --seed 3", "`--output_dir` needs a value"),
    ("train --output_dir=", "`--output_dir` is followed by an empty value"),
    ("train --model ''", "`--model` is followed by an empty value"),
    ("train --learning_rate -1e-5", "must be positive"),
    ("train --learning_rate=-0.1", "must be positive"),
    ("train --learning_rate nan", "--learning_rate nan"),
    ("train --weight_decay inf", "--weight_decay inf"),
    ("train --weight_decay -inf", "--weight_decay -inf"),
    ("train --learning_rate 1e-3x", "must be a number"),
    ("train --learning_rate 0,001", "decimal point"),
    ("train --max_steps 2.5", "must be a whole number"),
    ("train --max_steps many", "must be a whole number"),
    ("train --max_steps 0", "--max_steps 0"),
    ("train --per_device_train_batch_size 0", "--per_device_train_batch_size"),
    ("train --num_train_epochs -3", "--num_train_epochs"),
    ("train --seed -1", "--seed"),
    ("train --shots 0", "--shots"),
    ("train --alpha 2", "--alpha"),
    ("train --method wise_ft --alpha_sweep 0 0.5 1.5", "--alpha_sweep 1.5"),
    ("train --method lines --lines_alpha -0.1", "--lines_alpha -0.1"),
    ("train --true_positive_rate 0", "--true_positive_rate"),
    ("train --streaming ture", "did you mean true"),
    ("train --disable_tqdm maybe", "`--disable_tqdm maybe` must be true or false"),
    (f"{EVALUATE} --use_cpu flase", "did you mean false"),
    ("train --fp16 --use_cpu", "--bf16"),
    (f"{EVALUATE} --batch_size 0", "--batch_size"),
    (f"{CALIBRATE} --batch_size 1.5", "must be a whole number"),
    (f"{PUBLISH} --retries -1", "--retries"),
    # Names
    ("train --method carrot", "did you mean carot"),
    ("train --method CaRot", "did you mean carot"),
    ("train --method wise-ft", "did you mean wise_ft"),
    ("train --method modelstock", "did you mean model_stock"),
    ("train --method wise_ft --finetune_with carott", "did you mean carot"),
    ("train --method wise_ft --finetune_with clip_adapter", "--finetune_with"),
    ("train --method wise_ft --merged_head interpolate", "did you mean interpolated"),
    ("train --detector enrgy", "did you mean energy"),
    ("train --preset referense", "did you mean reference"),
    ("train --lr_scheduler_type cosin", "did you mean cosine"),
    ("train --save_strategy step", "did you mean steps"),
    ("train --optim adam", "did you mean adamw_torch"),
    ("train --train_crop carrot", "did you mean carot"),
    ("train --recipe emoji_shift/carott", "did you mean emoji_shift/carot"),
    ("train --recipe carot", "emoji_shift/carot, emoji_shift/carot+croft, emoji_shift/clip_adapter, emoji_shift/covariance_anchor, emoji_shift/croft"),
    ("train --recipe emoji_shift/croft --method carot", "give --recipe emoji_shift/carot"),
    ("train --method zero_shot --recipe emoji_shift/croft", "leave one of them out"),
    ("train --bad_images ignore", "choose one of skip, error"),
    ("train --train_dataset emoji_shfit", "did you mean emoji_shift"),
    ("train --report_to wandbb", "did you mean wandb? Choose one of"),
    ("train --report_to foo", "tensorboard"),
    ("train --eval_datasets emoji_shift imagnet-r", "did you mean imagenet-r"),
    ("train --eval_datasets {tmp}/images:shfit", "images:shift"),
    ("train --eval_datasets {tmp}/images:val", "images:validation"),
    ("train --eval_datasets {tmp}/images:Unseen", "images:open_set"),
    ("evaluate emoji-clip --eval_datasets emoji_shift", "did you mean emoji_clip"),
    ("evaluate emoji_clip_carott --eval_datasets emoji_shift", "did you mean emoji_clip_carot"),
    # Paths
    ("train --model {tmp}/nowhere", "`--model"),
    ("train --model {tmp}/file.txt", "is a file"),
    ("train --model {tmp}", "config.json"),
    ("train --train_dataset {tmp}/imagse", "did you mean {tmp}/images"),
    ("train --train_dataset {tmp}/no/such/folder", "does not exist"),
    ("train --eval_datasets imagenet-1k={tmp}/nowhere", "nowhere does not exist"),
    ("train --class_names {tmp}/name.txt", "did you mean {tmp}/names.txt"),
    ("train --output_dir {tmp}/file.txt", "is a file"),
    ("train --output_dir {tmp}/file.txt/out", "is a file"),
    ("train --resume_from_checkpoint true --output_dir {tmp}", "no checkpoint in {tmp}"),
    ("train --resume_from_checkpoint last --output_dir {tmp}", "no checkpoint in {tmp}"),
    ("train --resume_from_checkpoint {tmp}/checkpoint-9", "checkpoint-9"),
    ("evaluate {tmp}/nowhere --eval_datasets emoji_shift", "`MODEL"),
    (f"{EVALUATE} --output_dir {{tmp}}/file.txt", "is a file"),
    ("calibrate {tmp}/nowhere --dataset emoji_shift", "`DIR"),
    ("publish {tmp}/nowhere --repo_id a/b", "`DIR"),
    ("calibrate emoji_clip_carot --dataset emoji_shift", "copy it first"),
    ("publish emoji_clip_carot --repo_id a/b", "copy it first"),
    # Config files
    ("train --config {tmp}/nowhere.yaml", "nowhere.yaml"),
    ("train --config {tmp}/god.yaml", "did you mean {tmp}/good.yaml"),
    ("train --config {tmp}", "is a folder"),
    ("train --config {tmp}/syntax.yaml", "syntax.yaml, line 3, column 6"),
    ("train --config {tmp}/tab.yaml", "tab.yaml, line 2"),
    ("train --config {tmp}/latin.yaml", "UTF-8"),
    ("train --config {tmp}/list.yaml", "mapping"),
    ("train --config {tmp}/key.yaml", "line 2: 'learning_rte' is not an argument; did you mean learning_rate"),
    ("train --config {tmp}/negated.yaml", "line 2: 'no_ema_from_first_step' is not an argument; write ema_from_first_step: false"),
    ("train --config {tmp}/twice.yaml", "line 3: seed is set a second time"),
    ("train --config {tmp}/type.yaml", "learning_rate"),
    ("train --config {tmp}/nested.yaml", "seed takes one value"),
    ("train --config {tmp}/choice.yaml", "did you mean carot"),
    ("train --config {tmp}/range.yaml", "must be positive"),
    ("train --config {tmp}/empty_value.yaml", "output_dir is empty"),
    ("train --config {tmp}/forgotten.yaml", "forgotten.yaml, line 2: learning_rate has no value"),
    ("train --config {tmp}/commas.yaml", "by blanks, not by commas"),
    ("train --eval_datasets {tmp}/images,{tmp}/model:shift", "by blanks, not by commas"),
    ("train --eval_datasets {tmp}/images:id,{tmp}/model:shift", "by blanks, not by commas"),
]  # fmt: skip
FILES = {
    "file.txt": "text",
    "names.txt": "cat\ndog\n",
    "good.yaml": "method: flyp\n",
    "syntax.yaml": "method: carot\nseed: [1, 2\nmodel: x\n",
    "tab.yaml": "method: carot\n\tseed: 1\n",
    "list.yaml": "- method\n- carot\n",
    "key.yaml": "method: carot\nlearning_rte: 1e-3\n",
    "negated.yaml": "method: carot\nno_ema_from_first_step: true\n",
    "twice.yaml": "seed: 1\nmethod: carot\nseed: 2\n",
    "type.yaml": "learning_rate: fast\n",
    "nested.yaml": "seed: [1, 2]\n",
    "choice.yaml": "method: carrot\n",
    "range.yaml": "learning_rate: -1e-3\n",
    "empty_value.yaml": "output_dir: ''\n",
    "forgotten.yaml": "method: flyp\nlearning_rate:\n",
}


@pytest.fixture(scope="module")
def tmp(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wrong")
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "latin.yaml").write_bytes("method: carot  # f\u00fcr\n".encode("latin-1"))
    for name in ("images", "model"):
        (folder / name).mkdir()
    (folder / "commas.yaml").write_text(f"eval_datasets: {folder}/images, {folder}/model:shift\n")
    (folder / "model" / "config.json").write_text("{}")
    return folder


def words(line: str, tmp) -> list[str]:
    return [("" if word == "''" else word).format(tmp=tmp, folder=tmp / "model") for word in line.split()]




def test_there_are_at_least_fifty_rows():
    assert len({line for line, _ in ROWS}) == len(ROWS) >= 50


@pytest.mark.parametrize(("line", "fix"), ROWS, ids=[line or "nothing" for line, _ in ROWS])
def test_wrong_input_is_one_line_that_names_the_fix(line, fix, tmp, capsys, monkeypatch):
    monkeypatch.delenv("HF_ROBUSTFT_TRACEBACK", raising=False)
    assert main(words(line, tmp)) == WRONG
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1, printed.err
    assert fix.format(tmp=tmp) in printed.err


#: The real parser, which decides where there is no description, knows the same manners.
@pytest.mark.parametrize(
    ("line", "fix"),
    [row for row in ROWS if row[0].startswith("train") and "{tmp}" not in row[0] and "dataset" not in row[0]
     and "report_to" not in row[0] and "--recipe" not in row[0]
     and not any(word in row[1] for word in ("positive", "--bf16", "--shots", "--alpha", "--lines_alpha", "--seed", "--max_steps"))
     and not row[0].startswith(("train --per_device", "train --num_train", "train --true_positive"))],
)  # fmt: skip
def test_transformers_parser_says_the_same(line, fix, tmp):
    with pytest.raises(ValueError) as error:
        train_parser().parse_args(words(line, tmp)[1:])
    assert fix in str(error.value)


def seconds(command, **settings):
    """A finished process, and the seconds of processor time that it took: the clock would measure the machine's load."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **settings)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    "line",
    ["train --learning_rat 1", "train --report_to foo", "train --method carrot", "train --model {tmp}/nowhere", "train --config {tmp}/syntax.yaml",
     "evaluate emoji_clip --eval_datasets emoji_shfit", "calibrate {tmp}/nowhere --dataset x", "publish {tmp}/nowhere --repo_id a/b"],
)  # fmt: skip
def test_processes_answer_before_torch_is_loaded(line, tmp, repository):
    arguments = words(line, tmp)
    program = [str(repository / "examples" / "run_robust_ft.py")] if arguments[0] == "train" else ["-m", "hf_robustft.cli"]
    environment = {name: value for name, value in os.environ.items() if name != "HF_ROBUSTFT_TRACEBACK"}
    done, spent = seconds([sys.executable, *program, *arguments[arguments[0] == "train" :]], env=environment)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert spent < LIMIT


@pytest.mark.parametrize("command", ["script", *COMMANDS])
def test_help_is_quick_and_in_groups_with_defaults(command, repository):
    program = [str(repository / "examples" / "run_robust_ft.py")] if command == "script" else ["-m", "hf_robustft.cli", command]
    done, spent = seconds([sys.executable, *program, "--help"])
    assert done.returncode == 0 and done.stderr == "" and spent < LIMIT
    assert done.stdout.startswith("usage: ")
    if command in ("script", "train"):
        places = [done.stdout.index(f"\n{title}:\n") for title in ("method carot", "model", "data", "evaluation", "training", "publishing")]
        assert places == sorted(places)
        assert "(default: carot)" in done.stdout and "--adam_beta1" not in done.stdout
        everything, _ = seconds([sys.executable, *program, "--help_all"])
        assert "--adam_beta1" in everything.stdout and "(default: 0.9)" in everything.stdout
    elif command not in ("publish", "compare"):
        assert "--use_cpu" in done.stdout and "(default: 256)" in done.stdout


METHODS = Description.of_what_is_installed().facts["methods"]


@pytest.mark.parametrize("method", METHODS)
def test_help_fits_two_screens_and_names_the_settings_of_the_method(method, capsys):
    with pytest.raises(SystemExit):
        main(["train", f"--method={method}", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= (100 if "+" not in method else 115) and max(map(len, lines)) <= 110
    shown = re.split(r"\n(?=  --)", "\n".join(lines))
    shown = {re.match(r"  --(?:\[no_\])?(\w+)", text)[1]: " ".join(text.split()) for text in shown[1:]}
    facts = METHODS[method]
    for name in set().union(*(other["settings"] for other in METHODS.values())):
        assert (name in shown) == (name in facts["settings"]), name
    assert ("learning_rate" in shown) == (method not in ("tip_adapter", "model_stock", "zero_shot", "auto")) and "seed" in shown
    # Of a text that began with the methods it is for, their names were all that was left.
    assert not [text for name, text in shown.items() if name in facts["settings"] and text.split()[-1] in METHODS]
    for name, value in facts["paper"].items():
        if name in shown:
            value = f"{value:g}".replace("e-0", "e-") if type(value) is float else str(value).lower()
            assert re.search(rf"\(default(?:: \S+;| and) paper: {re.escape(value)}\)", shown[name]), shown[name]
    for name, value in facts["defaults"].items():
        value = f"{value:g}".replace("e-0", "e-") if isinstance(value, (int, float)) else value
        assert f"(default: {value}" in shown[name] or "(default and" in shown[name]


def test_the_settings_in_the_help_are_those_that_the_method_reads():
    from hf_robustft.training.methods import METHODS as trainers
    from hf_robustft.training.methods import RobustTrainingArguments
    from hf_robustft.training.settings import declarations, declared_settings, unused_settings
    from hf_robustft.training.trainer import RobustTrainer

    for method, trainer in trainers.items():
        unused = unused_settings(trainer, RobustTrainingArguments)
        # What trains is chosen for every method alike, and shown with the settings of training.
        common = declared_settings(RobustTrainer)
        assert bool(common & unused) == (not trainer.trains_model) and unused & common <= set(METHODS[method]["idle"])
        read = set(declarations(RobustTrainingArguments)) - unused - common
        assert read <= set(METHODS[method]["settings"]) and not unused & set(METHODS[method]["settings"])
    assert METHODS["croft"]["paper"]["learning_rate"] == 0.002 and METHODS["croft"]["defaults"]["learning_rate"] == 0.003


def test_help_of_another_version_of_transformers_is_read_from_the_parsers(monkeypatch, capsys):
    monkeypatch.setattr("hf_robustft.cli.description.transformers_version", lambda: "another")
    monkeypatch.setattr("hf_robustft.cli.description.transformers_hash", lambda: "another")
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "method carot:" in capsys.readouterr().out


@pytest.mark.parametrize("method", [["--method", "auto"], ["--method=auto"]])
def test_an_interrupted_comparison_of_auto_goes_on_by_the_same_command(method, tmp_path):
    said = how_to_go_on(["hf-robustft", "train"], [*method, "--output_dir", str(tmp_path)])(KeyboardInterrupt("13 of 16 runs are finished"))
    assert said == f"Go on with: hf-robustft train {' '.join(method)} --output_dir {tmp_path}"


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("compare --rule best", "shift:<set>"),
        ("compare --jobs 0", "--jobs 0"),
        ("compare --hold_out 0", "--hold_out 0"),
        ("compare {tmp}/nowhere", "{tmp}/nowhere"),
        ("compare {tmp}/nowhere --rule id", "{tmp}/nowhere"),
        ("train --method auto --learning_rate 1", "--learning_rate"),
        ("train --method=auto --learning-rates 1e-3", "hf-robustft compare"),
        ("train --method auto --jobs 2", "hf-robustft compare"),
        ("train --method auto --resume_from_checkpoint last", "goes on"),
        ("train --method auto --push_to_hub", "hf-robustft publish"),
        ("train --method auto --hub_token secret", "hf-robustft publish"),
    ],
)
def test_what_a_comparison_cannot_do_is_said_at_the_first_look(line, fix, tmp):
    command, *arguments = words(line, tmp)
    with pytest.raises(UsageError) as error:
        first_look(command, arguments)
    assert fix.format(tmp=tmp) in str(error.value) and "\n" not in str(error.value)


def test_the_first_look_knows_the_rules():
    from hf_robustft.cli.first_look import RULES
    from hf_robustft.comparison import selection

    assert {*RULES, "shift"} == set(selection.RULES)
    for rule in (*RULES, "shift", "shift:sketch"):
        first_look("compare", ["--rule", rule])


def test_help_of_auto_says_what_it_does_and_what_it_can_be_given(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--method", "auto", "--help"])
    told = capsys.readouterr().out
    assert all(flag in told for flag in ("hf-robustft compare", "--rule", "--jobs", "--learning_rates", "--dry_run", "--train_dataset"))
    for refused in ("--learning_rate ", "--recipe", "--push_to_hub", "--hub_model_id", "--resume_from_checkpoint", "--orthogonality_weight"):
        assert f"\n  {refused}" not in told
    assert re.search(r"--seed N .*\(default: 0\)", told)


def test_warnings_say_what_they_say(capsys, monkeypatch):
    monkeypatch.delenv("HF_ROBUSTFT_TRACEBACK", raising=False)
    usual = warnings.formatwarning

    def command():
        print(warnings.formatwarning("half the\nweights", UserWarning, "program.py", 3), end="")

    assert run(command) == 0
    assert capsys.readouterr().out == "Warning: half the weights\n" and warnings.formatwarning is usual


@usual_flags
def test_the_description_is_what_the_real_parsers_say():
    described, facts = json.loads(FLAGS_FILE.read_text(encoding="utf-8")), describe()
    if described["transformers"] != transformers_version():
        # Another version may put the help into other words.
        for item in (described, facts):
            item.pop("transformers")
            for argument in item["commands"]["train"]["arguments"]:
                argument.pop("help", None)
        assert json.loads(as_text(facts)) == described
    else:
        assert FLAGS_FILE.read_text(encoding="utf-8") == as_text(facts), "run `python -m hf_robustft.cli.describe`"


@usual_flags
def test_what_is_installed_is_what_is_described(monkeypatch):
    assert Description.load() is not None
    monkeypatch.setattr("hf_robustft.cli.description.transformers_version", lambda: "another")
    assert Description.load() is not None


def test_a_transformers_with_other_flags_has_another_hash(tmp_path):
    """But not one that puts its help or what its methods do into other words."""
    import transformers

    usual, copy = Path(transformers.__file__).parent, tmp_path / "transformers"
    names = ("training_args.py", *_FILES_OF_TRANSFORMERS)
    texts = {name: (usual / name).read_text(encoding="utf-8") for name in names}
    hashes = {}
    for change, (name, old, new) in {
        "help": ("training_args.py", '"help": "', '"help": "Really: '),
        "methods": ("training_args.py", "    def __post_init__(self):", "    def __post_init__(self):\n        pass"),
        "nothing": ("training_args.py", "", ""),
        "default": ("training_args.py", "learning_rate: float = field(default=5e-5", "learning_rate: float = field(default=6e-5"),
        "name": ("training_args.py", "    learning_rate: float", "    lr: float"),
        "choice": ("trainer_utils.py", '    EPOCH = "epoch"', '    EPOCH = "pass"'),
        "tracker": ("integrations/integration_utils.py", '    "tensorboard": ', '    "board": '),
        "kind": ("hf_argparser.py", "def string_to_bool(v):", "def string_to_bool(v):\n    return True"),
    }.items():
        assert old in texts[name], old
        for path, text in texts.items():
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            (copy / path).write_text(text.replace(old, new) if path == name else text, encoding="utf-8", newline="")
        hashes[change] = transformers_hash(copy)
    assert hashes["help"] == hashes["methods"] == hashes["nothing"] == transformers_hash() == transformers_hash(usual)
    assert len(set(hashes.values())) == len(hashes) - 2 and "unknown" not in hashes.values()
    (copy / "training_args.py").unlink()
    assert transformers_hash(copy) == "unknown"


def test_a_description_of_something_else_is_not_used_and_the_real_parsers_say_the_same(monkeypatch):
    monkeypatch.setattr("hf_robustft.cli.description.source_hash", lambda *files: "another")
    assert Description.load() is None
    with pytest.raises(UsageError, match="--learning_rate"):
        first_look("train", ["--learning_rat", "1"])
    assert first_look("train", ["--seed", "3"]).seed == 3


def test_what_is_right_passes(tmp, capsys):
    for line, expected in (
        ("--disable_tqdm --greater_is_better", {"disable_tqdm": True, "greater_is_better": True}),
        ("--disable_tqdm false --max_steps 1e3", {"disable_tqdm": False, "max_steps": 1000}),
        ("--no_feature_shifts --learning-rate 1E-3", {"feature_shifts": False, "learning_rate": 1e-3}),
        ("--config {tmp}/good.yaml --seed 3", {"method": "flyp", "seed": 3}),
        ("--eval_datasets emoji_shift dtd:open_set", {"eval_datasets": ["emoji_shift", "dtd:open_set"]}),
        ("--train_dataset owner/name/train --model openai/clip-vit-base-patch16", {"train_dataset": "owner/name/train"}),
    ):
        found = vars(first_look("train", words(line, tmp)))
        assert {name: found[name] for name in expected} == expected
        real = vars(train_parser().parse_args(words(line, tmp)))
        assert {name: real[name] for name in expected if name in real and "config" not in line} == {
            name: value for name, value in expected.items() if "config" not in line
        }
    assert capsys.readouterr() == ("", "")
    first_look("train", ["--seed", "1", "--seed", "2"])
    assert "`--seed` is given again" in capsys.readouterr().err


def test_what_only_the_loaders_can_tell_is_left_to_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("own/test-0.parquet", "tars/test/0.tar", "photos/cat/1.png", "rows.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    for text in ("own/test", "own/test:shift", f"{tmp_path}/own/test:open_set", "tars/test", "photos", "photos:validation",
                 "rows.parquet", "./photos", "owner/name", "owner/name/test:shift", "imagenet-seen-unseen-seed7:id",
                 "imagenet-1k/train", "pacs-sketch=owner/mirror"):  # fmt: skip
        assert vars(first_look("evaluate", ["owner/model", "--eval_datasets", text]))["eval_datasets"] == [text]
    runs = ["--method", "wise_ft", "--train_dataset", "pacs", "--finetuned_model", "./runs/flyp/{suite}"]
    assert vars(first_look("train", [*runs, "--eval_datasets", "./{suite}/test"]))["finetuned_model"] == runs[-1:]
    with pytest.raises(UsageError, match="nowhere"):
        first_look("train", [*runs, "--eval_datasets", "{suite}", "./nowhere"])


def test_plain_values_of_a_config_are_read_as_flags_are(tmp_path):
    from hf_robustft.cli.config_file import read_config

    (tmp_path / "run.yaml").write_text(
        "learning_rate: 1e-3\nsave_strategy: no\nstreaming: yes\nrun-name: 1.10\neval_datasets: emoji_shift\nshots: null\n"
        "lr_scheduler_kwargs: {min_lr: 0.1}\nmax_steps: 1e2\n"
    )
    assert read_config(train_parser(), tmp_path / "run.yaml") == {
        "learning_rate": 1e-3, "save_strategy": "no", "streaming": True, "run_name": "1.10",
        "eval_datasets": ["emoji_shift"], "lr_scheduler_kwargs": {"min_lr": 0.1}, "max_steps": 100,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("error", "holds"),
    [
        (OSError(28, "No space left on device", "x.bin"), "disk is full while x.bin"),
        (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"), "disk is full"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), "--per_device_train_batch_size"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "--batch_size"),
        (MemoryError(), "--batch_size"),
        (RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed."), "--num_workers"),
        (RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:6024. GLHF!"), "Another process"),
        (RuntimeError("WandbCallback requires wandb to be installed. Run `pip install wandb`."), "wandb"),
        (ModuleNotFoundError("No module named 'wandb'", name="wandb"), "wandb"),
        (ImportError("TensorBoardCallback requires tensorboard to be installed."), "tensorboard"),
        (ValueError("two\nlines"), "two lines"),
    ],
)  # fmt: skip
def test_errors_in_one_line(error, holds, capsys):
    def command():
        raise error

    assert run(command) == WRONG
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1 and holds in printed


@pytest.mark.parametrize(
    ("rank", "processes", "begin"),
    [("0", "2", "error: "), ("1", "2", "error in process 1: "), ("1", "1", "error: "), (None, None, "error: ")],
)
def test_of_several_processes_that_fail_alike_the_main_one_says_it(rank, processes, begin, capsys, monkeypatch):
    """The others give it time to: the launcher ends them in it."""
    waited = []
    monkeypatch.setattr(endings.time, "sleep", waited.append)
    for name, value in (("RANK", rank), ("WORLD_SIZE", processes)):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)

    def command():
        raise ValueError("wrong")

    assert run(command) == WRONG
    assert capsys.readouterr().err == f"{begin}wrong\n" and bool(waited) == begin.startswith("error in")


@pytest.mark.parametrize(
    "error", [TypeError("x"), KeyError("x"), RuntimeError("x"), ImportError("x", name="hf_robustft.data")]
)
def test_faults_of_the_program_keep_their_traceback(error):
    assert one_line(error) is None


PROGRAM = """
import sys, threading
from hf_robustft.cli.endings import first_look_or_exit, run
token, kind = "hf_" + "Q7wE9r" * 6, getattr(__builtins__, sys.argv[1])

def fail(text):
    try:
        raise OSError("https://me:secret@hub.example/" + text)
    except OSError as error:
        raise ExceptionGroup("all of " + text, [kind(text)]) from error

def command():
    thread = threading.Thread(target=fail, args=(token,), name="beside")
    thread.start()
    thread.join()
    try:
        fail(token)
    except ExceptionGroup:
        raise kind("at last " + token + " and a-password")

if sys.argv[2] == "script":
    first_look_or_exit("train", [])
    command()
sys.exit(run(command))
"""


@pytest.mark.parametrize(("kind", "way", "asked"), [("KeyError", "command", "0"), ("ValueError", "command", "1"), ("KeyError", "script", "0")])
def test_no_traceback_tells_a_token(kind, way, asked):
    environment = {**os.environ, "HF_ROBUSTFT_TRACEBACK": asked, "HF_TOKEN": "a-password"}
    done = subprocess.run([sys.executable, "-c", PROGRAM, kind, way], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout == ""
    told = ("in thread beside", "direct cause", "During handling", "ExceptionGroup: all of [removed]", f"{kind}: ")
    for text in (*told, "https://[removed]@hub.example/[removed]", "at last [removed] and [removed]"):
        assert text in done.stderr, text
    assert not [secret for secret in ("Q7wE9r", "secret", "a-password") if secret in done.stderr]


def test_interruptions_and_broken_pipes_have_their_own_status(capsys, repository):
    import signal

    from hf_robustft.training.interruption import Interrupted

    for error, status in (
        (KeyboardInterrupt(), INTERRUPTED),
        (Interrupted("Interrupted after step 3 of 9.", "out/checkpoint-3"), INTERRUPTED),
        (Interrupted("Interrupted after step 3 of 9.", None, signal.SIGTERM), TERMINATED),
    ):

        def command(error=error):
            raise error

        assert run(command, lambda error: f"Go on with {getattr(error, 'checkpoint', None)}", leaving=False) == status
        printed = capsys.readouterr().err.strip()
        assert printed.startswith("Interrupted") and "\n" not in printed
        assert printed.endswith(f"Go on with {getattr(error, 'checkpoint', None)}")

    def swallowed():
        try:
            raise KeyboardInterrupt
        except:  # noqa: E722
            raise ImportError("No module named 'version'", name="version") from None

    assert run(swallowed, leaving=False) == INTERRUPTED and capsys.readouterr().err.strip() == "Interrupted."
    reader = subprocess.Popen(
        [sys.executable, "-m", "hf_robustft.cli", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    reader.stdout.close()
    assert reader.wait(60) in (0, BROKEN_PIPE) and reader.stderr.read() == b""
    reader.stderr.close()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_after_ctrl_c_how_to_go_on(command, monkeypatch, capsys):
    def stopped(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_carry_out", stopped)
    assert main([command, "my folder"]) == INTERRUPTED
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("Interrupted. ") and line.endswith(f"with: hf-robustft {command} 'my folder'")


def test_the_command_that_goes_on_names_one_checkpoint(tmp_path):
    from hf_robustft.training.interruption import Interrupted

    flags = ["--resume-from-checkpoint", f"{tmp_path}/checkpoint-12", "--seed", "3", "--output_dir", str(tmp_path)]
    for step in (12, 15):
        (tmp_path / f"checkpoint-{step}").mkdir()
        os.utime(tmp_path / f"checkpoint-{step}", (1, 1))
    say = how_to_go_on(["run.py"], flags)
    assert say(KeyboardInterrupt()) == f"Nothing was trained; start again with: {shlex.join(['run.py', *flags])}"
    assert say(Interrupted("within a step")).startswith("Nothing was saved; start again with: run.py --resume-from")
    for step in (3, 9):
        (tmp_path / f"checkpoint-{step}").mkdir()
        os.utime(tmp_path / f"checkpoint-{step}", (9e9, 9e9))
    resume = f"--seed 3 --output_dir {tmp_path} --resume_from_checkpoint {tmp_path}/checkpoint"
    assert say(KeyboardInterrupt()) == f"Go on with: run.py {resume}-9"
    assert say(Interrupted("", f"{tmp_path}/checkpoint-3")) == f"Go on with: run.py {resume}-3"
    for step in (3, 9):
        (tmp_path / f"checkpoint-{step}").rmdir()
    (tmp_path / "model.safetensors").write_bytes(b"")
    os.utime(tmp_path / "model.safetensors", (9e9, 9e9))
    assert "hf-robustft evaluate" in say(KeyboardInterrupt())


def test_a_misspelt_folder_is_not_looked_for_in_all_that_lies_around_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "2025.parquet").write_bytes(b"")
    monkeypatch.setattr("hf_robustft.data.folders.load_dataset_builder", lambda path: pytest.fail(f"{path} was searched"))
    for option in ("--train_dataset", "--eval_datasets"):
        assert main(["train", option, str(tmp_path / "photoz")]) == 2
        assert f"{tmp_path / 'photoz'} does not exist" in capsys.readouterr().err
    # What may be a split is asked for.
    for split, there in (("validation", "reports/2025.parquet"), ("winter", "README.md"), ("winter", "reports/winter-0.parquet")):
        (tmp_path / there).write_bytes(b"")
        with pytest.raises(pytest.fail.Exception, match="was searched"):
            main(["train", "--train_dataset", str(tmp_path / split)])
        if there != "reports/2025.parquet":
            (tmp_path / there).unlink()
