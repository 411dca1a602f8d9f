# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The open logging window: means over steps, and a state that continues it."""

import pytest
import torch

from hf_robustft.training.checkpoints import LossWindow


def same(values):
    return values


def filled(values, micro_batches=1):
    window = LossWindow()
    for value in values:
        window.add({"loss": torch.tensor(value), "loss/a": torch.tensor(2 * value)}, micro_batches)
        if micro_batches == 1:
            window.finish_step()
    return window


def test_means_are_over_the_steps_and_start_anew():
    window = filled([1.0, 2.0, 6.0])
    assert window.means(same) == {"loss": 3.0, "loss/a": 6.0}
    assert window.means(same) == {}


def test_micro_batches_share_a_step():
    window = filled([1.0, 3.0], micro_batches=2)
    window.finish_step()
    assert window.means(same)["loss"] == 2.0


def test_a_term_that_begins_later_counts_as_zero_before():
    window = filled([1.0])
    window.add({"loss": torch.tensor(3.0), "loss/b": torch.tensor(4.0)}, 1)
    window.finish_step()
    assert window.means(same) == {"loss": 2.0, "loss/a": 1.0, "loss/b": 2.0}


@pytest.mark.same_bits("the same numbers in the same order")
def test_a_restored_window_ends_on_the_same_bits():
    values = [0.1, 0.7, 1e-9, 3.3]
    whole = filled(values)
    first = filled(values[:2])
    second = LossWindow()
    second.load_state(first.state(same), torch.device("cpu"))
    for value in values[2:]:
        second.add({"loss": torch.tensor(value), "loss/a": torch.tensor(2 * value)}, 1)
        second.finish_step()
    assert second.means(same) == whole.means(same)


def test_a_state_without_a_window_is_refused():
    with pytest.raises(ValueError, match="window_steps"):
        LossWindow().load_state({}, torch.device("cpu"))


@pytest.mark.same_bits("the run that goes on adds to the same averages as the one that is resumed")
def test_two_processes_go_on_as_they_resume():
    for seed in range(20):
        numbers = torch.rand(2, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        whole, resumed = [LossWindow(), LossWindow()], [LossWindow(), LossWindow()]

        def over(windows):
            sums = torch.stack([torch.stack(list(window.sums.values())) for window in windows])
            return lambda _: sums.mean(dim=0)

        for step in range(6):
            if step == 3:
                for window, again, mean in zip(whole, resumed, [over(whole)] * 2, strict=True):
                    again.load_state(window.state(mean), torch.device("cpu"))
            for windows in (whole, resumed)[: 1 + (step >= 3)]:
                for rank, window in enumerate(windows):
                    window.add({"loss": numbers[rank, step]}, 1)
                    window.finish_step()
        assert whole[0].means(over(whole)) == resumed[0].means(over(resumed))
