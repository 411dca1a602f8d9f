# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The speed suite of examples/speed: its sides do the same work, its cost model counts right, its files hold what they say."""

import functools
import json
import statistics
import sys
import textwrap
import types
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPModel, TrainerCallback

SUITE = Path(__file__).resolve().parents[2] / "examples" / "speed"
sys.path.insert(0, str(SUITE))

import cost_model  # noqa: E402
import croft  # noqa: E402
import exported  # noqa: E402
import heads  # noqa: E402
import memory  # noqa: E402
import paper_run  # noqa: E402
import peer_trainers  # noqa: E402
import peers  # noqa: E402
import pictures  # noqa: E402
import processes  # noqa: E402
import run  # noqa: E402
import scores  # noqa: E402
import steps  # noqa: E402
import what_trains  # noqa: E402
import workload  # noqa: E402
from table import Row, as_markdown  # noqa: E402
from turns import Contender, Steps, interleave, median_ratio  # noqa: E402

from hf_robustft.modeling.features import encode  # noqa: E402


@pytest.fixture
def in_this_process(monkeypatch):
    """Contenders one after the other and without processes of their own, which would import torch again and again."""

    def one_after_the_other(contenders, rounds, warm, progress):
        for contender in contenders:
            turn = Steps(rounds)
            contender.results = [{"peak_bytes": 1, **(contender.function(turn, **contender.settings) or {})}]
            contender.seconds, contender.info = turn.seconds, turn.info

    for module in (steps, heads, croft, processes, what_trains, peers):
        monkeypatch.setattr(module, "interleave", one_after_the_other)
    for module in (memory, scores, pictures, what_trains):
        monkeypatch.setattr(module, "in_a_process", lambda function, *arguments: function(*arguments))


# ---- The sides of a comparison do the same ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three_steps():
    sides = {"ours": functools.partial(steps.ours, method="carot"), "bare": steps.bare, "reference": steps.reference}
    turns = {}
    for name, side in sides.items():
        turns[name] = Steps(4)
        side(turns[name], model="tiny", batch=8)
    return turns


def furthest(one: torch.nn.Module, other: torch.nn.Module) -> float:
    return max((a - b).abs().max().item() for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_bare_loop_does_the_arithmetic_of_our_trainer(three_steps):
    trainer, bare = three_steps["ours"].trainer, three_steps["bare"]
    assert trainer.state.global_step == len(bare.losses) == len(bare.seconds) == 4
    assert sum(bare.losses) == pytest.approx(trainer._window.sums["loss"].item(), rel=1e-6)
    # Four steps of AdamW at 1e-5 move a weight by 4e-5 at most.
    assert furthest(trainer.model, bare.model) < 5e-6
    assert furthest(trainer.teacher, bare.teacher) < 5e-6
    assert furthest(trainer.model, workload.random_model("tiny")) > 3e-5


def test_the_reference_trains_towards_the_same(three_steps):
    # Decay and clipping are its own; what it minimises is not.
    assert three_steps["reference"].losses == pytest.approx(three_steps["bare"].losses, rel=1e-4)
    assert three_steps["reference"].losses[0] == pytest.approx(three_steps["bare"].losses[0], rel=1e-6)


def test_padded_prompts_have_the_features_of_trimmed_ones():
    turns = Steps(1), Steps(1)
    heads.trimmed(turns[0], "tiny", 40)
    heads.padded(turns[1], "tiny", 40)
    assert turns[0].features.shape == (40, 32)
    torch.testing.assert_close(turns[0].features, turns[1].features, rtol=0, atol=1e-5)


def test_captions_have_the_lengths_of_imagenets():
    prompts = workload.imagenet_prompts(3200)
    assert len(set(prompts)) == 3200 and prompts != workload.imagenet_prompts(3200, seed=1)
    longest = [workload.WordTokens()(prompts[i : i + 32])["input_ids"].shape[1] for i in range(0, len(prompts), 32)]
    assert statistics.mean(longest) == pytest.approx(cost_model.CAPTION_LENGTH, abs=0.5)
    padded = workload.WordTokens()(prompts[:4], padding="max_length")["input_ids"]
    assert padded.shape == (4, 77) and (padded[:, -1] == 49_407).all()


# ---- Cost model ------------------------------------------------------------------------------------------------------


def eager_tiny() -> CLIPModel:
    # The counter has no formula for the fused attention of the CPU.
    model = workload.random_model("tiny")
    model.set_attn_implementation("eager")
    return model


def counted(function) -> float:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


@pytest.mark.parametrize("length", [9, 14])
def test_operations_agree_with_the_counter(length):
    model, batch = eager_tiny(), 4
    vision, text = cost_model.towers(model.config, length)
    matrix = 2 * batch * batch * model.config.projection_dim
    captions = torch.arange(batch * length).view(batch, length).index_fill(1, torch.tensor([length - 1]), 49_407)
    inputs = {"pixel_values": torch.randn(batch, 3, 32, 32), "input_ids": captions}
    # The model computes similarities of its own, forward alone.
    with torch.no_grad():
        forward = counted(lambda: encode(model, inputs).logits_per_image)
    assert forward == pytest.approx(batch * (vision.forward_flops + text.forward_flops) + 2 * matrix, rel=1e-12)
    whole = counted(lambda: encode(model, inputs).logits_per_image.sum().backward())
    assert whole == pytest.approx(batch * (vision.training_flops + text.training_flops) + 4 * matrix, rel=1e-12)


@pytest.mark.parametrize("name", ["tiny", *workload.SIZES])
def test_weights_are_counted(name):
    with torch.device("meta"):
        model = CLIPModel(workload.model_config(name))
    assert cost_model.parameter_count(model.config) == sum(p.numel() for p in model.parameters())


def test_a_teacher_costs_a_third_more():
    config = workload.model_config("vit-b-32")
    ratio = cost_model.step_flops(config, 32) / cost_model.step_flops(config, 32, teacher=False)
    assert ratio == pytest.approx(4 / 3, abs=0.01)
    assert cost_model.table("vit-b-16", 32).count("\n") == 11


def test_the_papers_run_on_paper():
    machines = paper_run.Machines()
    one, many = (paper_run.seconds_of_a_step(n, machines) for n in (1, 64))
    assert one["gradients"] == 0 < many["gradients"]
    assert many["arithmetic"] == pytest.approx(one["arithmetic"] / 64)
    assert many["step"] >= many["launches"] == one["launches"]
    assert "25,030 steps" in paper_run.paper_run()


# ---- Turns -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def sleepers(tmp_path, monkeypatch):
    """A module of contenders that import nothing."""
    (tmp_path / "sleepers.py").write_text(
        textwrap.dedent("""
            import os, time
            def sleeper(turn, seconds, log):
                turn.info["rank"] = os.environ.get("RANK")
                while turn():
                    with open(log, "a") as file:
                        file.write(f"{seconds}\\n")
                    time.sleep(seconds)
                return {"slept": seconds}
            def broken(turn):
                turn()
                raise ValueError("this side is broken")
            def killed(turn):
                turn()
                os._exit(3)
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    import sleepers

    yield sleepers
    del sys.modules["sleepers"]


def test_contenders_work_in_turn(sleepers, tmp_path):
    log, told = tmp_path / "log", []
    sides = [
        Contender(str(seconds), sleepers.sleeper, {"seconds": seconds, "log": str(log)}, None, processes=n)
        for seconds, n in ((0.02, 2), (0.1, 1))
    ]
    interleave(sides, 2, 1, told.append)
    # Two processes write each line of the first side; every round turns the order round.
    assert log.read_text().split() == ["0.02"] * 2 + ["0.1"] * 2 + ["0.02"] * 4 + ["0.1"]
    assert [len(side.seconds) for side in sides] == [2, 2] and "0.1, round 2 of 2" in told
    assert 0.02 <= sides[0].median < 0.1 <= sides[1].median < 1
    assert median_ratio(*sides) < 1
    assert sides[0].info == {"rank": "0"} and sides[1].info == {"rank": None}
    assert [result["slept"] for result in sides[0].results] == [0.02, 0.02]
    assert sides[0].peak > sides[1].peak > 1e6


@pytest.mark.parametrize(("name", "message"), [("broken", "this side is broken"), ("killed", "ended without a word")])
def test_a_side_that_fails_is_named(sleepers, name, message):
    with pytest.raises(RuntimeError, match=f"the {name} one(?s:.*){message}"):
        interleave([Contender(f"the {name} one", getattr(sleepers, name), {}, None)], 1, 1, lambda text: None)


def test_what_trains_is_counted(in_this_process, tmp_path, capsys):
    pytest.importorskip("peft")
    settings = ["--model", "tiny", "--batch", "4", "--rounds", "1", "--threads", "1", "--output", str(tmp_path / "rows.json")]
    rows = what_trains.main(settings)
    assert json.loads((tmp_path / "rows.json").read_text()) == rows
    assert [(row["trains"], row["chunk"]) for row in rows] == [(name, chunk) for chunk in (0, 1) for name in what_trains.CHOICES]
    model = workload.random_model("tiny")
    every = sum(p.numel() for p in model.parameters())
    # Two towers of two layers of width 64: four maps in attention, and two of the MLP; projections and scale train too.
    adapters = 8 * 2 * 2 * (4 * (64 + 64) + 2 * (64 + 256))
    rest = sum(p.numel() for p in (model.visual_projection.weight, model.text_projection.weight, model.logit_scale))
    layers = sum(p.numel() for n, p in model.named_parameters() if ".layers." in n or n.endswith(("post_layernorm.weight", "post_layernorm.bias")))
    layers += sum(p.numel() for p in model.text_model.final_layer_norm.parameters())
    for row in rows:
        assert row["model_parameters"] == every
        assert row["parameters"] == {"everything": every, "LoRA, rank 8": adapters + rest, "last 2 layers": layers + rest}[row["trains"]]
        # Two moments of each, and the count of steps.
        assert 8 * row["parameters"] <= row["optimizer_bytes"] <= 8 * row["parameters"] + 4 * 200
    assert "LoRA" in capsys.readouterr().out


@pytest.mark.slow  # Four graphs are made.
def test_exported_graphs_compute_what_torch_computes(tmp_path):
    pytest.importorskip("onnxruntime")
    for shape in exported.QUICK:
        files = exported.write(shape, tmp_path)
        exported.in_torch(Steps(2), shape, 3)
        off = {name: exported.in_onnxruntime(Steps(2), shape, 3, str(path))["difference"] for name, path in files.items()}
        # Of logits of size 100.
        assert off["fp32"] < 1e-3 < off["fp16"] < 1 and 1e-2 < off["int8"] < 50


# ---- Peers -----------------------------------------------------------------------------------------------------------


class Gradients(TrainerCallback):
    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append({name: p.grad.clone() for name, p in model.named_parameters()})


@pytest.fixture(scope="module")
def eight_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peers")
    peer_trainers.prepare(folder, "tiny", 8)
    return folder


def test_the_plain_trainer_does_what_our_flyp_does(eight_files):
    short = {"max_steps": 2, "logging_steps": 1, "max_grad_norm": 0.0}
    ours, plain = peer_trainers.flyp(eight_files, 8, crops=False, **short), peer_trainers.contrastive_example(eight_files, 8, **short)
    ids = [next(iter(trainer.get_train_dataloader()))["input_ids"] for trainer in (ours, plain)]
    assert ids[0].shape[1] < ids[1].shape[1] == 77 and torch.equal(ids[0], ids[1][:, : ids[0].shape[1]])
    gradients = Gradients(), Gradients()
    for trainer, kept in zip((ours, plain), gradients, strict=True):
        trainer.add_callback(kept)
        trainer.train()
    losses = [[entry["loss"] for entry in trainer.state.log_history if "loss" in entry] for trainer in (ours, plain)]
    # The log of the plain Trainer is rounded to four digits after the point.
    assert len(losses[0]) == 2 and [float(loss) for loss in losses[0]] == pytest.approx([float(x) for x in losses[1]], abs=1e-4)
    assert gradients[0].steps[0].keys() == gradients[1].steps[0].keys()
    largest = max(value.abs().max().item() for value in gradients[0].steps[0].values())
    for name, value in gradients[0].steps[0].items():
        torch.testing.assert_close(value, gradients[1].steps[0][name], rtol=1e-4, atol=1e-5 * largest, msg=name)
    # Two steps of AdamW at 1e-5 move a weight by 2e-5. The bias of the keys has no gradient but rounding, and may go either way.
    apart = {
        name: (value - other).abs().mean().item()
        for (name, value), other in zip(ours.model.named_parameters(), plain.model.parameters(), strict=True)
        if not name.endswith("k_proj.bias")
    }
    # The plain Trainer decays the scale too, as the table says.
    assert apart.pop("logit_scale") == pytest.approx(2 * 1e-5 * 0.1 * 2.6592, rel=0.1)
    assert max(apart.values()) < 1e-8 and furthest(ours.model, workload.random_model("tiny")) > 1.5e-5


def test_peers_train_on_the_same_pairs_and_by_the_same_loss(eight_files, monkeypatch):
    contrastive = types.ModuleType("open_clip")
    contrastive.ClipLoss = lambda: lambda image, text, scale: steps.contrastive(scale * image @ text.T, scale * text @ image.T)
    monkeypatch.setitem(sys.modules, "open_clip", contrastive)
    turns = {name: Steps(1) for name in ("open_clip", "CaRot, reference-style")}
    for name, turn in turns.items():
        peers.train(turn, name, str(eight_files), 8)
    data = peer_trainers.ProcessedFiles(eight_files, peer_trainers.checkpoint(eight_files)[1])
    model = workload.random_model("tiny")
    loss = model(**peer_trainers.with_loss([data[i] for i in range(8)])).loss.item()
    assert turns["open_clip"].losses == pytest.approx([loss], rel=1e-5)
    visual, text = model.visual_projection.weight, model.text_projection.weight
    penalty = 0.2 * (visual @ visual.T - torch.eye(32)).norm() + 0.05 * (visual.T @ text).norm()
    assert turns["CaRot, reference-style"].losses == pytest.approx([loss + penalty.item()], rel=1e-5)


def test_a_turn_of_several_steps():
    turn = Steps(2)
    several, asked = peers.Every(turn, 3), 0
    while several():
        asked += 1
    assert asked == 6 and len(turn.seconds) == 2


# `python -m pytest -m slow tests/invariants/test_speed_suite.py`, a quarter of a minute.
@pytest.mark.slow
def test_quick_peers_have_a_row_for_each(in_this_process, tmp_path, monkeypatch, capsys):
    absent = ("sentence-transformers", "open_clip")
    monkeypatch.setattr(peer_trainers, "find_spec", lambda module: None)
    rows = peers.main(["--quick", "--threads", "1", "--rounds", "1", "--output_dir", str(tmp_path)])
    result = json.loads((tmp_path / peers.RESULTS).read_text())
    assert result["rows"] == rows and result.keys() >= {"machine", "versions", "command", "settings"}
    parts = ["step", *(f"reading an epoch of 16 files, {workers} workers" for workers in (0, 2))]
    assert [(row["what"], row["name"]) for row in rows] == [(part, name) for part in parts for name in peers.PEERS]
    for row in rows:
        assert ("not_run" in row) == (row["name"] in absent)
        if "not_run" not in row:
            pairs = 8 if row["what"] == "step" else 16
            assert row["images_per_second"] == pytest.approx(pairs / row["seconds"][0]) and len(row["seconds"]) == 1
            flyp = next(other for other in rows if other["what"] == row["what"] and other["name"] == "FLYP")
            if row is not flyp:
                assert row["ratios"]["FLYP"] == pytest.approx(flyp["seconds"][0] / row["seconds"][0])
    table = (tmp_path / "peers.md").read_text()
    assert "not run: sentence-transformers is not installed" in table and table.count("\n") == len(rows) + 2
    assert "open_clip is not installed; it needs torchvision" in capsys.readouterr().out.replace("\n", " ")


def test_each_group_of_peers_is_measured_beside_ours(monkeypatch):
    """Where memory has no room for all, a ratio is of turns of one group, and each peer has one row."""
    groups = []

    def take_turns(sides, *_):
        groups.append([side.name.removeprefix("step: ") for side in sides])
        for number, side in enumerate(sides, start=10 * len(groups)):
            side.seconds[:] = [float(number)]

    monkeypatch.setattr(peers, "interleave", take_turns)
    monkeypatch.setattr(peer_trainers, "find_spec", lambda module: None)
    options = peers.parse(["--output_dir", "unused", "--quick", "--at_once", "1"])
    rows = {row["name"]: row for row in peers.compare("step", None, {}, options, None, 8, 1, 1)}
    first, second = "Transformers' contrastive example", "CaRot, reference-style"
    assert groups == [[*peers.OURS, first], [*peers.OURS, second]] and list(rows) == list(peers.PEERS)
    assert [rows[name]["median"] for name in (*peers.OURS, first, second)] == [10, 11, 12, 22]
    assert rows[second]["ratios"] == {"FLYP": 20 / 22, "CaRot": 21 / 22}


@pytest.mark.parametrize(
    "wrong", [["--files", "33"], ["--batch", "2"], ["--rounds", "0"], ["--at_once", "0"], ["--only", "nobody"]]
)
def test_impossible_settings_of_peers_are_refused(tmp_path, wrong, capsys):
    with pytest.raises(SystemExit):
        peers.parse(["--output_dir", str(tmp_path), *wrong])
    assert wrong[0] in capsys.readouterr().err


# ---- The command -----------------------------------------------------------------------------------------------------


#: Whole evaluations, in processes that import all of Transformers: `python -m pytest -m slow tests/invariants/test_speed_suite.py`.
EVALUATIONS = ("p", "s")


#: All that measures in this process takes half a minute, and is as slow.
IN_THIS_PROCESS = [item for item in run.ITEMS if item not in ("h", "gpu", *EVALUATIONS)]


@pytest.mark.parametrize("items", [["a", "e"], pytest.param(IN_THIS_PROCESS, marks=pytest.mark.slow)], ids=["two", "all"])
def test_quick_mode_writes_table_and_json(in_this_process, tmp_path, capsys, items):
    def asked(names):
        """Those of the items: "d128" and "b new" are of d and b."""
        return {name for name in names if name[0] in items}

    assert run.main(["--quick", "--threads", "1", "--output_dir", str(tmp_path), "--only", *items]) == 0
    result = json.loads((tmp_path / run.RESULTS).read_text())
    assert result.keys() == {"machine", "command", "settings", "seconds", "ratios", "rows"}
    assert result["machine"].keys() == {"hardware", "memory", "system", "python", "torch", "transformers", "date"}
    ratios = {"a", "b", "b new", "c", "c new", "t", "t flyp", "t flyp new", "d8", "d16", "d32", "e", "f", "f once", "i", "v"}
    assert result["ratios"].keys() == asked(ratios) and all(ratio > 0 for ratio in result["ratios"].values())
    rows = {row["item"]: row for row in result["rows"]}
    assert rows.keys() == asked(ratios | {"d128", "g time", "g memory"})
    assert rows["a"].keys() == {
        *("item", "what", "a", "b", "unit", "ratio", "limit", "note", "details", "within_limit"),
    }
    limits = {
        "a": 0.95,
        "b": 1.3,
        "b new": 1.3,
        "c": 0.58,
        "v": 0.95,
        "d8": 1.2,
        "e": 0.35,
        "f": 0.05,
        "g time": 5.0,
        "g memory": 1.5,
    }
    assert all(rows[item]["limit"] == limits[item] for item in asked(limits))
    assert len(rows["a"]["details"]["rounds"]) == 2 and "scaled up from 64 of the 80,000" in rows["e"]["note"]
    table = (tmp_path / "table.md").read_text()
    assert table.count("\n") == len(rows) + 2 and "| a | CaRot step over a bare loop" in table
    shown = capsys.readouterr().out
    assert "tiny, batch 8, float32" in shown and "missed" not in shown


@pytest.mark.slow
def test_quick_evaluations_agree_with_what_they_stand_beside(in_this_process, tmp_path):
    assert run.main(["--quick", "--threads", "1", "--output_dir", str(tmp_path), "--only", *EVALUATIONS]) == 0
    result = json.loads((tmp_path / run.RESULTS).read_text())
    assert result["ratios"].keys() == {"p", "p pipeline", "s"} and all(ratio > 0 for ratio in result["ratios"].values())
    rows = {row["item"]: row for row in result["rows"]}
    assert rows["p"]["details"]["same"] == rows["p pipeline"]["details"]["same"] == 1
    few, many = (rows["s"]["details"][which] for which in ("few", "many"))
    assert (few["images"], many["images"]) == (40, 400)


def test_without_an_accelerator_its_part_says_so(tmp_path):
    from accelerate import PartialState

    if PartialState().device.type == "cuda":
        pytest.skip("there is an accelerator, and measuring it takes minutes")
    run.main(["--quick", "--threads", "1", "--only", "gpu", "--output_dir", str(tmp_path)])
    row = json.loads((tmp_path / run.RESULTS).read_text())["rows"][0]
    assert row["note"] == "not run: no GPU" and row["a"] is None


@pytest.mark.parametrize("wrong", [["--only", "z"], ["--batch", "2"], ["--rounds", "-1"], ["--model", "vit-x"]])
def test_impossible_settings_are_refused(tmp_path, wrong, capsys):
    with pytest.raises(SystemExit):
        run.parse(["--output_dir", str(tmp_path), *wrong])
    assert wrong[0] in capsys.readouterr().err


def test_unknown_model():
    with pytest.raises(ValueError, match="'vit-x' is unknown; choose one of tiny, vit-b-32"):
        workload.model_config("vit-x")


def test_verdicts():
    rows = [Row("x", "one", 1.0, 2.0, "s", 0.5, 0.5), Row("y", "two", 6.0, None, "s", limit=5.0, note="why")]
    rows += [Row("z", "three", None, None, "", limit=5.0)]
    assert [row.within for row in rows] == [True, False, None]
    assert as_markdown(rows).splitlines()[2:] == [
        "| x | one | 1 s | 2 s | 0.500 | 0.5 | kept |",
        "| y | two (why) | 6 s |  |  | 5 | **missed** |",
        "| z | three |  |  |  | 5 |  |",
    ]
