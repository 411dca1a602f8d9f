# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
The optimizer, whoever made it: what trains beside the model is in it, and its gradients are averaged over processes; its
schedule, and the norm of all gradients.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ..modeling.dual_encoder import LOGIT_BIAS, LOGIT_SCALE
from ..modeling.spread_weights import is_sharded
from .distributed import mean_gradient_over_processes
from .finite import check_gradient
from .optimizer_options import beside_class
from .schedules import epoch_cosine_schedule, reference_schedule
from .selective_projection import SPD, AdamSPD
from .sharding import separate_plain_parameters

#: Settings of which an optimizer, and a schedule, that is given has its own.
_OF_OPTIMIZER = ("optim", "optim_args", "spd_weight", "weight_decay", "decay_all_parameters", "adam_beta1", "adam_beta2", "adam_epsilon")
_OF_SCHEDULE = ("lr_schedule", "lr_scheduler_type", "lr_scheduler_kwargs", "min_lr", "warmup_steps")


def has_modes(optimizer: Any) -> bool:
    """Whether an optimizer, or a class of them, holds other weights in training than those to evaluate."""
    inner = getattr(optimizer, "optimizer", optimizer)
    return callable(getattr(inner, "train", None)) and callable(getattr(inner, "eval", None))


def check_given_optimizers(args: Any, optimizers: tuple, optimizer_cls_and_kwargs: tuple | None) -> None:
    """
    Refuse optimizers and schedulers under which a run would silently be another one, and warn of settings beside them that do nothing.

    Args:
        args ([`RobustTrainingArguments`]): Settings of the run.
        optimizers (`tuple`): The pair of optimizer and scheduler that a Trainer was given.
        optimizer_cls_and_kwargs (`tuple`, *optional*): The class and options that it was given.

    Raises:
        ValueError: For a scheduler without its optimizer, a weight decay that Trainer would replace, an optimizer with train
            and eval modes, and one that was made before the weights are spread over processes.
    """
    optimizer, scheduler = optimizers
    idle = [] if optimizer is None else [name for name in _OF_OPTIMIZER if not _has(optimizer, name, getattr(args, name))]
    idle += [] if scheduler is None else [name for name in _OF_SCHEDULE if getattr(args, name)]
    if optimizer_cls_and_kwargs is not None:
        # Its rate too, which is the class's own where the options have none.
        idle += beside_class(args, optimizer_cls_and_kwargs[1])
    kind = "optimizers" if optimizer_cls_and_kwargs is None else "optimizer_cls_and_kwargs"
    if given := [f"`{name}={getattr(getattr(args, name), 'value', getattr(args, name))}`" for name in idle if name in args.given]:
        warnings.warn(
            f"{', '.join(given)} {'does' if len(given) == 1 else 'do'} nothing: what is given as `{kind}` has its own; set it there, or leave "
            f"{'it' if len(given) == 1 else 'them'} out.",
            stacklevel=3,
        )
    if scheduler is not None and getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise ValueError(
            "The scheduler in `optimizers` moves the rate of another optimizer than the one that trains; give the pair, "
            "or leave the scheduler to `lr_scheduler_type`."
        )
    options = {} if optimizer_cls_and_kwargs is None else optimizer_cls_and_kwargs[1]
    if options.get("weight_decay", args.weight_decay) != args.weight_decay:
        raise ValueError(
            f"`weight_decay={options['weight_decay']}` in `optimizer_cls_and_kwargs` would do nothing, as Trainer's groups of "
            f"parameters have their own (0 for norms and biases); set `weight_decay` of the arguments, now {args.weight_decay}."
        )
    made_by = None if optimizer_cls_and_kwargs is None else optimizer_cls_and_kwargs[0]
    if _kind(args).startswith("schedule_free") or has_modes(optimizer or made_by):
        raise ValueError(
            "An optimizer with train and eval modes (schedule-free) trains other weights than it gives, and the teacher, "
            "the best checkpoint and what is exported would be of the wrong ones; use `optim='adamw_torch'` with "
            "`lr_scheduler_type`."
        )
    if args.fully_shard and optimizer is not None:
        raise ValueError(
            "`fully_shard` replaces the parameters that the optimizer in `optimizers` holds; pass "
            "`optimizer_cls_and_kwargs=`, or set `optim`."
        )


def _has(optimizer: Any, name: str, value: Any) -> bool:
    """Whether an optimizer has the `value` of a setting in all of its groups already, or it asks for nothing."""
    if name in ("adam_beta1", "adam_beta2"):
        found = [group.get("betas", (None, None))[name == "adam_beta2"] for group in optimizer.param_groups]
    elif name in ("weight_decay", "adam_epsilon"):
        found = [group.get("eps" if name == "adam_epsilon" else name) for group in optimizer.param_groups]
    else:
        return not value or name == "optim" and str(getattr(value, "value", value)).split("_")[0] == type(optimizer).__name__.lower()
    return all(item == value for item in found)


def _kind(args: Any) -> str:
    return str(getattr(args.optim, "value", args.optim))


class CompleteOptimizer:
    """
    The part of `RobustTrainer` that looks at the optimizer before a run, whoever made it: `optim`, `optimizers`,
    `optimizer_cls_and_kwargs`, or a `create_optimizer` of a subclass.

    Stands before `ObjectiveMixin` and `Trainer` in the order of base classes.
    """

    _optimizer_is_of_arguments = False

    def given_optimizers(self) -> tuple[Any, Any]:
        """Optimizer and scheduler of the run, each `None` where it is the one that the arguments name."""
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        scheduler = getattr(self.lr_scheduler, "scheduler", self.lr_scheduler)
        return (
            None if self._optimizer_is_of_arguments else optimizer,
            None if self._created_lr_scheduler else scheduler,
        )

    def _wrap_model(self, model, training=True, dataloader=None):
        # Trainer calls this between making the optimizer and handing both to Accelerate.
        if training and self.optimizer is not None and not self.is_deepspeed_enabled:
            self._complete_optimizer()
        return super()._wrap_model(model, training=training, dataloader=dataloader)

    def rate_factor(self) -> float:
        """The learning rate of this step as a share of its peak."""
        group = self.optimizer.param_groups[-1]
        return float(group["lr"]) / float(group.get("initial_lr") or self.args.learning_rate)

    def _complete_optimizer(self) -> None:
        beside = {
            f"{owner}.{name}": parameter
            for owner, module in self.trainable_modules().items()
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        for parameter in beside.values():
            if not getattr(parameter, "_gradient_is_averaged", False):
                mean_gradient_over_processes(parameter)
                parameter._gradient_is_averaged = True
        if self._steps_in_backward():
            return
        if has_modes(self.optimizer):
            check_given_optimizers(self.args, (self.optimizer, None), None)
        groups = self.optimizer.param_groups
        held = {id(parameter) for group in groups for parameter in group["params"]}
        self._check_held(held)
        missing = [parameter for name, parameter in beside.items() if id(parameter) not in held]
        if missing and len(groups) == 1:
            # Into the group and not beside it: a scheduler that was given knows no other.
            groups[0]["params"].extend(missing)
        elif missing and self.lr_scheduler is not None:
            raise ValueError(
                f"The optimizer in `optimizers` has {len(groups)} groups and holds nothing of "
                f"{', '.join(sorted(self.trainable_modules()))}, which this method trains, and its scheduler would not see "
                "another group; give the optimizer alone, or the modules too (`head=`, `adapters=`) with their parameters in it."
            )
        elif missing:
            self.optimizer.add_param_group({"params": missing})
        for group in groups:
            group.setdefault("initial_lr", group["lr"])

    def _steps_in_backward(self) -> bool:
        kind = _kind(self.args)
        return self.optimizer_cls_and_kwargs is None and ("layerwise" in kind or "lomo" in kind)

    def _check_held(self, held: set[int]) -> None:
        trained = {name: id(p) for name, p in self.model.named_parameters() if p.requires_grad}
        left = [name for name, key in trained.items() if key not in held]
        if left and len(left) == len(trained):
            raise ValueError(
                f"The optimizer holds none of the {len(left)} parameters of the model that train; make it of "
                "`model.parameters()` of the very model that the Trainer is given."
            )
        if left:
            warnings.warn(
                f"The optimizer lacks {len(left)} of the {len(trained)} parameters of the model that train ({left[0]}, ...): "
                "they stay as they are. Put them into it, or set their `requires_grad` to False.",
                stacklevel=2,
            )

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """
        Names under weight decay: all but norms, biases and the logit scale, or all with `decay_all_parameters`. Where a bias
        stands beside the scale, neither ever is.
        """
        # Transformers knows norms by one class, and by how most are called: AIMv2's `rms_norm1` would decay.
        norms = {
            f"{name}.{key}"
            for name, module in model.named_modules()
            if "norm" in type(module).__name__.lower()
            for key in module._parameters
        }
        names = [name for name in super().get_decay_parameter_names(model) if name not in norms]
        if self.args.decay_all_parameters:
            names = [name for name, _ in model.named_parameters()]
            if self.encoder.logit_bias is None:
                return names
        return [name for name in names if not name.endswith((LOGIT_SCALE, LOGIT_BIAS))]

    @classmethod
    def get_optimizer_cls_and_kwargs(cls, args: Any, model: nn.Module | None = None) -> tuple[Any, Any]:
        """The class of the optimizer that `args` name, and its options, as Transformers has them."""
        if _kind(args) != SPD:
            return super().get_optimizer_cls_and_kwargs(args, model)
        betas = args.adam_beta1, args.adam_beta2
        return AdamSPD, {"lr": args.learning_rate, "betas": betas, "eps": args.adam_epsilon, "spd_weight": args.spd_weight}

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is not None:
            return self.optimizer
        if self._steps_in_backward() and self.trainable_modules():
            raise ValueError(
                f"`optim='{getattr(self.args.optim, 'value', self.args.optim)}'` steps the model's parameters in the backward pass and never those beside "
                f"it ({', '.join(sorted(self.trainable_modules()))}), which this method trains; use 'adamw_torch'."
            )
        optimizer = super().create_optimizer(model)
        self._optimizer_is_of_arguments = self.optimizer_cls_and_kwargs is None
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for module in self.trainable_modules().values():
            decayed = set(self.get_decay_parameter_names(module))
            parameters = {n: p for n, p in module.named_parameters() if p.requires_grad and id(p) not in held}
            for decay in (True, False):
                chosen = [p for n, p in parameters.items() if (n in decayed) is decay]
                if chosen:
                    weight_decay = self.args.weight_decay if decay else 0.0
                    optimizer.add_param_group({"params": chosen, "weight_decay": weight_decay})
        if isinstance(optimizer, AdamSPD):
            # Scale and bias follow the confidence of the data, which is not what the pre-trained model is kept for.
            optimizer.set_options(self.encoder.scalars, spd_weight=0.0)
            if self.lora is not None:
                optimizer.set_options(self.lora.matrices(), from_zero=True)
        if is_sharded(self.model):
            separate_plain_parameters(optimizer)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        warmup_steps = self.args.get_warmup_steps(num_training_steps)
        if warmup_steps >= num_training_steps and self.args.warmup_steps > 1:
            warnings.warn(
                f"Warm-up takes {warmup_steps} steps (`warmup_steps={self.args.warmup_steps}`) and the run has "
                f"{num_training_steps}: the learning rate never reaches its peak of {self.args.learning_rate:g}. "
                "Give a fraction such as 0.02.",
                stacklevel=2,
            )
        optimizer = self.optimizer if optimizer is None else optimizer
        if self.lr_scheduler is None and self.args.lr_schedule == "reference":
            self.lr_scheduler = reference_schedule(optimizer, num_training_steps, warmup_steps, self.args.min_lr)
            self._created_lr_scheduler = True
        if self.lr_scheduler is None and self.args.lr_schedule == "epoch_cosine":
            self.lr_scheduler = epoch_cosine_schedule(optimizer, num_training_steps, int(self.args.num_train_epochs))
            self._created_lr_scheduler = True
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if self._created_lr_scheduler and isinstance(scheduler, LambdaLR) and not any(
            factor(step) for factor in scheduler.lr_lambdas for step in range(num_training_steps)
        ):
            warnings.warn(
                f"The learning rate is 0 in every step of this run of {num_training_steps}, so that nothing will be learned: "
                f"Transformers' schedule starts its warm-up (`warmup_steps={self.args.warmup_steps:g}`) at 0. Give "
                "--warmup_steps 0, or more steps.",
                stacklevel=2,
            )
        return scheduler

    def _all_parameters(self, model: nn.Module) -> list[nn.Parameter]:
        extra = (p for module in self.trainable_modules().values() for p in module.parameters())
        return [*model.parameters(), *extra]

    def _clip_grad_norm(self, model):
        return self.accelerator.clip_grad_norm_(self._all_parameters(model), self.args.max_grad_norm)

    def _get_grad_norm(self, model, grad_norm=None):
        if grad_norm is None:
            grad_norm = self.accelerator.clip_grad_norm_(self._all_parameters(model), float("inf"))
        grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        # In float16 an overflow is usual: the step is skipped, and the next one has a smaller scale.
        if self.accelerator.scaler is None:
            terms = (name.removeprefix("loss/") for name in self._window.sums if name != "loss")
            check_gradient(grad_norm, terms, self.state.global_step)
        return grad_norm
