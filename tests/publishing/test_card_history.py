# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The rows of the training's log in a card."""

import math

from hf_robustft.publishing.card_sections import history_table, training_log


def history(steps=20, every=None):
    log = []
    for step in range(1, steps + 1):
        log.append(
            {"step": step, "epoch": 0.1 * step, "loss": 2.0 / step, "loss/contrastive": 1.5 / step, "grad_norm": 3.0}
            | {"loss/orthogonality": 0.5 / step, "teacher/momentum": 0.05 * step, "learning_rate": 1e-5}
        )
        if every and step % every == 0:
            log.append(
                {"step": step, "eval_photo/accuracy": 0.5 + step / 100, "eval_photo/ece": 0.1, "eval_photo/nll": 1.0}
                | {"eval_spectrum/smallest_singular_value": 1e-5 * step}
            )
    log.append({"step": steps, "train_runtime": 3.0, "train_loss": 1.0})
    return log


def test_rows_are_spread_evenly_with_the_first_and_the_last():
    assert [row["step"] for row in training_log(history(5))] == [1, 2, 3, 4, 5]
    steps = [row["step"] for row in training_log(history(100))]
    assert len(steps) == 8 and steps[0] == 1 and steps[-1] == 100
    gaps = [b - a for a, b in zip(steps, steps[1:], strict=False)]
    assert max(gaps) - min(gaps) <= 1


def test_where_there_were_evaluations_rows_are_taken_there_and_joined_with_the_losses():
    log = training_log(history(20, every=5))
    assert [row["step"] for row in log] == [5, 10, 15, 20]
    assert log[0] == {
        "step": 5,
        "loss": 0.4,
        "loss/contrastive": 0.3,
        "loss/orthogonality": 0.1,
        "teacher/momentum": 0.25,
        "eval_photo/accuracy": 0.55,
        "eval_photo/ece": 0.1,
        "eval_spectrum/smallest_singular_value": 5e-5,
    }


def test_the_table_has_a_column_for_each_term_and_blanks_where_nothing_was_logged():
    header, first, *_, last = history_table([*training_log(history(2)), {"step": 1500, "loss": 0.1}])
    assert header == ["Step", "Loss", "contrastive", "orthogonality", "Momentum"]
    assert first == ["1", "2", "1.5", "0.5", "0.05"] and last == ["1,500", "0.1", "", "", ""]
    header, *_, last = history_table(training_log(history(20, every=5)))
    assert header[-3:] == ["photo accuracy %", "photo ECE %", "Smallest singular value"]
    assert last[-3:] == ["70.0", "10.0", "2.00e-04"]


def test_what_is_no_finite_number_is_left_out_and_no_log_makes_no_table():
    log = [{"step": 1, "loss": math.nan, "loss/a": "text", "loss/b": True, "loss/c": 1.0}, {"loss": 1.0}]
    assert training_log(log) == ({"step": 1, "loss/c": 1.0},)
    assert training_log([]) == () and history_table(()) == []
