# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Options that the chosen optimizer does not read are refused: Transformers drops them without a word."""

import pytest
from helpers import arguments

from hf_robustft.training.given import Suggested


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        # The default optimizer reads none at all.
        ({"optim_args": "eps=1e-6"}, "optim_args=eps=1e-6.*`eps`.*adamw_torch"),
        ({"optim": "sgd", "optim_args": "momentun=0.9"}, "`momentun`.*'sgd'"),
        ({"optim": "sgd", "optim_args": "momentum=0.9, alpha=0.5"}, "`alpha`.*'sgd'"),
        ({"optim": "sgd", "adam_beta2": 0.9}, "`adam_beta2=0.9`.*'sgd'"),
        ({"optim": "adafactor", "adam_beta1": 0.8}, "`adam_beta1=0.8`.*'adafactor'"),
        ({"optim": "adagrad", "adam_epsilon": 1e-7}, "`adam_epsilon=1e-07`.*'adagrad'"),
    ],
)
def test_an_option_that_does_nothing_is_refused_by_name(tmp_path, settings, name):
    with pytest.raises(ValueError, match=name) as caught:
        arguments(tmp_path, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"adam_beta1": 0.8, "adam_beta2": 0.9, "adam_epsilon": 1e-6},
        {"optim": "spd", "adam_beta1": 0.5},
        # A script that writes the defaults out, for whatever optimizer.
        {"optim": "sgd", "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8},
        {"optim": "sgd", "optim_args": "momentum=0.9, nesterov=True"},
        # At the values that it has without them.
        {"optim": "sgd", "optim_args": "momentum=0.0,nesterov=false"},
        {"optim": "rmsprop", "optim_args": "alpha=0.9,centered=true"},
        {"optim": "adagrad", "optim_args": "lr_decay=0.1"},
        # Packages that are not there, and a model that is not known yet: Transformers cannot be asked.
        {"optim": "adamw_bnb_8bit", "optim_args": "x=1"},
        {"optim": "galore_adamw", "optim_target_modules": ["attn"], "optim_args": "rank=4"},
        # Nobody gave them.
        {"optim": "adamw_torch", "optim_args": Suggested("momentum=0.9", "a paper")},
    ],
)
def test_what_is_read_or_was_not_given_passes(tmp_path, settings):
    args = arguments(tmp_path, **settings)
    assert all(getattr(args, name) == getattr(value, "value", value) for name, value in settings.items())
