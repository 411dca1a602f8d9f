# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Wrong inputs, one a row: exit status 2, one line on standard error that names what to change, no model loaded."""

import os
import re
import sys

import pytest
from helpers.quick import LIMIT, seconds

from hf_robustft.cli import main
from hf_robustft.cli.endings import WRONG
from hf_robustft.cli.first_look import first_look
from hf_robustft.cli.parser import UsageError
from hf_robustft.cli.train_arguments import train_parser

EVALUATE, CALIBRATE, PREDICT, PUBLISH = (
    "evaluate emoji_clip --eval_datasets emoji_shift",
    "calibrate {folder} --dataset emoji_shift",
    "predict emoji_clip_carot {tmp}/images --output",
    "publish {folder} --repo_id a/b",
)
#: A command line and what its error must hold. {tmp} is a folder with the files below.
ROWS = [
    # Commands
    ("", "train, evaluate, compare, calibrate, predict, export, demo, watch, verify, publish"),
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
    ("evaluate --model emoji_clip --eval_datasets emoji_shift", "MODEL is given without a flag"),
    ("calibrate --model {folder} --dataset emoji_shift", "DIR is given without a flag"),
    ("predict emoji_clip_carot --images a.png --output a.csv", "MODEL IMAGES`"),
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
    ("train --eval_datasets emoji_shift:twemoji", "emoji_shift/twemoji"),
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
    ("train --class_names {tmp}/cat,dog", "one class name per line"),
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
    ("train --model {tmp}/empty", "no config.json"),
    ("calibrate {tmp}/empty --dataset emoji_shift", "no config.json"),
    ("publish {tmp}/empty --repo_id a/b", "no config.json"),
    ("train --train_dataset {tmp}/empty", "no file in the folder {tmp}/empty"),
    ("evaluate emoji_clip --eval_datasets {tmp}/empty:shift", "no file in the folder {tmp}/empty"),
    (f"{PREDICT} a.txt", "ends in .csv, .jsonl, .parquet"),
    (f"{PREDICT} answers", "ends in .csv, .jsonl, .parquet"),
    (f"{PREDICT} {{tmp}}/images", "is a folder"),
    (f"{PREDICT} {{tmp}}/file.txt/a.csv", "is a file"),
    (f"{PREDICT} {{tmp}}/taken.csv", "--overwrite"),
    (f"{PREDICT} a.csv --class_names {{tmp}}/name.txt", "did you mean {tmp}/names.txt"),
    (f"{PREDICT} a.csv --top_k 0", "--top_k 0"),
    (f"{PREDICT} a.csv {{tmp}}/imagse", "did you mean {tmp}/images"),
    ("predict emoji_clip_carot --output a.csv imagse/1.png", "`IMAGES imagse/1.png`"),
    ("predict emoji_clip_carot --output a.csv emoji_shfit", "did you mean emoji_shift"),
    ("predict --output a.csv", "MODEL"),
    ("demo", "MODEL"),
    ("demo emoji_clip_carot --dataset {tmp}/imagse", "did you mean {tmp}/images"),
    ("demo emoji_clip_carot --space {tmp}/images", "`--space {tmp}/images` holds other things"),
    ("demo emoji_clip_carot --space {tmp}/file.txt", "`--space {tmp}/file.txt`"),
    ("demo emoji_clip_carot --space {tmp}/new --port 80", "`--port`"),
    ("demo emoji_clip_carot --space {tmp}/new --host 0.0.0.0", "`--host`"),
    ("demo emoji_clip_carot --space {tmp}/new --share", "`--share`"),
    ("demo emoji_clip_carot --port 0", "`--port 0`"),
    ("demo emoji_clip_carot --space {tmp}/new --top_k 0", "`--top_k 0`"),
    ("demo emoji_clip_carot --space {tmp}/new --nearest_images 5", "`--nearest_images 5`"),
    ("demo emoji_clip_carot --space {tmp}/new --dataset emoji_shift --nearest_images 20001", "`--nearest_images 20001`"),
    ("watch emoji_clip_carot --reference {tmp}/imagse --stream {tmp}", "did you mean {tmp}/images"),
    ("watch emoji_clip_carot --reference {tmp} --stream {tmp}/imagse", "did you mean {tmp}/images"),
    ("watch emoji_clip_carot --reference {tmp}/images --stream {tmp}/model --level 1", "`--level 1.0`"),
    ("watch emoji_clip_carot --reference {tmp}/images --stream {tmp}", "`--reference {tmp}/images` and `--stream {tmp}`"),
    ("watch emoji_clip_carot --reference {tmp} --stream {tmp}/images", "share images"),
    ("watch emoji_clip_carot --reference {tmp}/images --stream {tmp}/images", "share images"),
    ("watch emoji_clip_carot --reference https://a.b/c --stream {tmp}/images", "`--reference https://a.b/c` is a web address"),
    ("watch emoji_clip_carot --reference {tmp}/images --stream {tmp}/file.txt", "`--stream {tmp}/file.txt` is a file"),
    ("watch emoji_clip_carot --stream {tmp}", "--reference"),
    ("predict emoji_clip_carott {tmp}/images --output a.csv", "did you mean emoji_clip_carot"),
    ("predict emoji_clip_carot --output a.csv", "`--image_list`"),
    ("predict emoji_clip_carot --output a.csv --image_list {tmp}/name.txt", "did you mean {tmp}/names.txt"),
    (f"{PREDICT} a.csv --image_list {{tmp}}/names.txt", "`--image_list {tmp}/names.txt`"),
    ("verify", "MODEL"),
    ("verify emoji_clip_carott", "did you mean emoji_clip_carot"),
    ("verify {tmp}/nowhere", "`MODEL"),
    ("verify emoji_clip_carot --output a.txt", "ends in .json"),
    ("verify emoji_clip_carot --markdown a.json", "ends in .md"),
    ("verify emoji_clip_carot --output {tmp}/images", "is a folder"),
    ("verify emoji_clip_carot --output {tmp}/file.txt/a.json", "is a file"),
    ("verify emoji_clip_carot --data noto", "NAME=PLACE"),
    ("verify emoji_clip_carot --data noto=", "NAME=PLACE"),
    ("verify emoji_clip_carot --data noto={tmp}/images noto={tmp}/images", "noto was given before"),
    ("verify emoji_clip_carot --data noto={tmp}/imagse", "did you mean {tmp}/images"),
    ("verify emoji_clip_carot --dataset noto={tmp}/images", "--data"),
    # Options that go together, or do not
    ("train --recipe emoji_shift/carot --paper_settings", "leave one out"),
    ("train --method ft --distillation_weight 1", "distillation_weight=1.0"),
    ("train --distillation_weight -1", "--distillation_weight -1.0` must be finite and not negative"),
    ("train --alpha 0.3", "--alpha 0.3` would do nothing"),
    (f"{EVALUATE} --knn_k 3", "--knn_bank"),
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
    "taken.csv": "image\n",
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
    for name in ("images", "model", "empty"):
        (folder / name).mkdir()
    (folder / "images" / "1.png").write_bytes(b"")
    (folder / "commas.yaml").write_text(f"eval_datasets: {folder}/images, {folder}/model:shift\n")
    for name in ("images", "model"):
        (folder / name / "robustft.json").write_text("{}")
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
     and "distillation" not in row[0] and row[0] != "train --alpha 0.3"
     and "report_to" not in row[0] and "--recipe" not in row[0]
     and not any(word in row[1] for word in ("positive", "--bf16", "--shots", "--alpha", "--lines_alpha", "--seed", "--max_steps"))
     and not row[0].startswith(("train --per_device", "train --num_train", "train --true_positive"))],
)  # fmt: skip
def test_transformers_parser_says_the_same(line, fix, tmp):
    with pytest.raises(ValueError) as error:
        train_parser().parse_args(words(line, tmp)[1:])
    assert fix in str(error.value)


@pytest.mark.parametrize(
    "line",
    ["train --learning_rat 1", "train --report_to foo", "train --method carrot", "train --model {tmp}/nowhere", "train --config {tmp}/syntax.yaml",
     "evaluate emoji_clip --eval_datasets emoji_shfit", "calibrate {tmp}/nowhere --dataset x", "publish {tmp}/nowhere --repo_id a/b",
     "predict emoji_clip_carot {tmp}/nowhere --output a.csv", "verify {tmp}/nowhere"],
)  # fmt: skip
def test_processes_answer_before_torch_is_loaded(line, tmp, repository):
    arguments = words(line, tmp)
    program = [str(repository / "examples" / "run_robust_ft.py")] if arguments[0] == "train" else ["-m", "hf_robustft.cli"]
    environment = {name: value for name, value in os.environ.items() if name != "HF_ROBUSTFT_TRACEBACK"}
    done, spent = seconds([sys.executable, *program, *arguments[arguments[0] == "train" :]], env=environment)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert spent < LIMIT


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("compare --rule best", "shift:<set>"),
        ("compare --jobs 0", "--jobs 0"),
        ("compare --hold_out 0", "--hold_out 0"),
        ("compare {tmp}/nowhere", "{tmp}/nowhere"),
        ("compare {tmp}/nowhere --rule id", "{tmp}/nowhere"),
        ("compare {tmp}/images {tmp}/model --output_dir {tmp}/model", "`DIR {tmp}/model`"),
        ("compare {tmp}/images {tmp}/model --output_dir {tmp}/images/new/one", "`DIR {tmp}/images`"),
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


EARLY = [
    ("export emoji_clip_carot --precision int8-static", "--dataset"),
    ("export emoji_clip_carot --format torch_export --precision fp16", "--precision fp16"),
    ("export emoji_clip_carot --format torch_export --opset 18", "--opset 18"),
    ("export emoji_clip_carot --opset 3", "--opset 3"),
    ("export emoji_clip_carot --min_agreement 0.9", "--min_agreement 0.9"),
    ("export {tmp}/model --output_dir {tmp}/model/onnx", "`MODEL`"),
    ("export emoji_clip_carot --dataset {tmp}/images:validation --output_dir {tmp}/images", "`--dataset {tmp}/images:validation`"),
    ("watch emoji_clip_carot --reference {tmp}/model --stream {tmp}/images --output_dir {tmp}/images/out", "`--stream {tmp}/images`"),
    ("watch emoji_clip_carot --reference {tmp}/model --stream {tmp}/images --output_dir {tmp}/model/out", "`--reference {tmp}/model`"),
    ("calibrate {tmp}/model --dataset emoji_shift --coverage 95", "95 % is 0.95"),
    ("calibrate {tmp}/model --dataset emoji_shift --coverage 1", "--coverage 1.0"),
    ("calibrate {tmp}/model --dataset emoji_shift --max_false_refusal 5", "5 % is 0.05"),
    ("calibrate {tmp}/model --dataset emoji_shift --prediction_sets none --coverage 0.9", "--coverage"),
    ("calibrate {tmp}/model --dataset emoji_shift --true_positive_rate 0.9 --max_false_refusal 0.1", "--max_false_refusal"),
    ("calibrate {tmp}/model --dataset emoji_shift --true_positive_rate 0.9 --unknown {tmp}/images", "--unknown"),
    ("calibrate {tmp}/model --dataset emoji_shift --true_positive_rate 0.9 --remove_detector", "--remove_detector"),
    ("calibrate {tmp}/model --dataset emoji_shift --true_positive_rate 0", "--true_positive_rate 0"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "fix"), EARLY, ids=[line for line, _ in EARLY])
def test_what_needs_no_torch_is_said_at_the_first_look(line, fix, tmp):
    command, *arguments = words(line, tmp)
    with pytest.raises(UsageError) as error:
        first_look(command, arguments)
    assert fix.format(tmp=tmp) in str(error.value) and "\n" not in str(error.value)


def test_what_is_nearby_is_named_where_an_id_of_the_hub_is_possible(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    for name in ("imgs/train/cat", "imgs/validation/cat", "outputs/mine"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_bytes(b"{}")
    near = {
        "train --train_dataset imgs/trian": "imgs/train", "evaluate owner/model --eval_datasets imgs/val:validation": "imgs/validation",
        "verify outputs/mine --data a=imgs/trian": "imgs/train", "evaluate outputs/min --eval_datasets emoji_shift": "outputs/mine",
    }  # fmt: skip
    # Offline, what lies elsewhere is named too; otherwise the Hub may have it.
    offline = {"train --train_dataset my/imgs": "imgs", "train --train_dataset img/train": "imgs/train"}
    for line, there in {**near, **offline}.items():
        command, *arguments = line.split()
        monkeypatch.setenv("HF_HUB_OFFLINE", "1" if line in offline else "0")
        with pytest.raises(UsageError, match=re.escape(f"did you mean {there}?")):
            first_look(command, arguments)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    first_look("train", ["--train_dataset", "my/imgs"])
    # What was downloaded is there, whatever lies beside it.
    (tmp_path / "cache" / "hub" / "datasets--imgs--trian").mkdir(parents=True)
    (tmp_path / "cache" / "hub" / "models--outputs--min").mkdir()
    first_look("evaluate", ["outputs/min", "--eval_datasets", "imgs/trian"])


def test_the_first_look_knows_the_rules():
    from hf_robustft.cli.first_look import RULES
    from hf_robustft.comparison import rules

    assert {*RULES, "shift"} == set(rules.RULES)
    for rule in (*RULES, "shift", "shift:sketch"):
        first_look("compare", ["--rule", rule])


def test_what_is_right_passes(tmp, capsys):
    for line, expected in (
        ("--disable_tqdm --greater_is_better", {"disable_tqdm": True, "greater_is_better": True}),
        ("--disable_tqdm false --max_steps 1e3", {"disable_tqdm": False, "max_steps": 1000}),
        ("--method croft --no_feature_shifts --learning-rate 1E-3", {"feature_shifts": False, "learning_rate": 1e-3}),
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


def test_offline_a_name_that_is_neither_here_nor_in_the_cache_is_answered_at_the_first_look(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    lines = ("train --train_dataset nowhere/x", "compare --train_dataset nowhere/x", "train --method auto --train_dataset nowhere/x",
             "evaluate emoji_clip --eval_datasets nowhere/x:shift", "verify emoji_clip_carot --data a=nowhere/x")  # fmt: skip
    for line in lines:
        command, *arguments = line.split()
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(UsageError, match="no folder nowhere/x here, and HF_HUB_OFFLINE is set.*correct the path"):
            first_look(command, arguments)
        # The Hub may have it.
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        if not line.startswith("verify"):
            first_look(command, arguments)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "cache" / "hub" / "datasets--nowhere--x").mkdir(parents=True)
    first_look("train", ["--train_dataset", "nowhere/x"])
    # A registered name with the place of a copy is another matter.
    first_look("evaluate", ["emoji_clip", "--eval_datasets", "pacs-sketch=owner/mirror"])


def test_what_only_the_loaders_can_tell_is_left_to_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    for name in ("own/test-0.parquet", "tars/test/0.tar", "photos/cat/1.png", "rows.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "cat").symlink_to(tmp_path / "photos" / "cat", target_is_directory=True)
    for text in ("linked", "own/test", "own/test:shift", f"{tmp_path}/own/test:open_set", "tars/test", "photos", "photos:validation",
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
        "lr_scheduler_kwargs: {min_lr: 1e-1, other: -2E+3, text: \"1e-1\", word: e1}\nmax_steps: 1e2\n"
    )
    assert read_config(train_parser(), tmp_path / "run.yaml") == {
        "learning_rate": 1e-3, "save_strategy": "no", "streaming": True, "run_name": "1.10",
        "eval_datasets": ["emoji_shift"], "lr_scheduler_kwargs": {"min_lr": 0.1, "other": -2000.0, "text": "1e-1", "word": "e1"}, "max_steps": 100,
    }  # fmt: skip


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
