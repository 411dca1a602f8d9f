# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Low-rank adapters (LoRA, Hu et al., ICLR 2022) in the layers of a model's towers, and the weights that it has with them.

PEFT makes the adapters and runs them. The model stays one of its own class, and what is saved is a plain one: each weight
with its adapter is a weight again, `W + s B A`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from .dual_encoder import DualEncoder
from .spread_weights import exchanged
from .tensor_files import write_tensors
from .trained_parts import last_layers

#: The folder beside the weights in which the adapters are kept as PEFT has them, if they are.
ADAPTER_FOLDER = "lora_adapter"
ADAPTER_WEIGHTS, ADAPTER_CONFIG = (f"{ADAPTER_FOLDER}/adapter_{name}" for name in ("model.safetensors", "config.json"))
#: What PEFT calls an adapter that is the only one, and what it puts before the names of the model that it wraps.
_NAME, _WRAPPER = "default", "base_model.model."
_BASE = ".base_layer."


def check_peft() -> None:
    """
    Refuse to go on without PEFT.

    Raises:
        ValueError: If it is not installed.
    """
    if find_spec("peft") is None:
        raise ValueError('`lora_rank` needs PEFT, which is not installed: pip install "hf_robustft[lora]"')


def refuse_adapters(model: nn.Module) -> None:
    """
    Refuse a dual encoder (`model`, possibly wrapped) that holds adapters of PEFT: under the names that its weights have then, no folder of
    it could be loaded.

    Raises:
        ValueError: If it does, such as the model of a Trainer that has trained by adapters.
    """
    held = next((name for name, _ in DualEncoder.of(model).core.named_parameters() if _BASE in name), None)
    if held is not None:
        raise ValueError(
            f"The model holds adapters of PEFT already ({held.partition(_BASE)[0]}), and could not be saved as a plain one; load the folder that "
            "the run with them has saved, or merge them (`merge_and_unload`)."
        )


def adapted_maps(model: nn.Module, towers: Collection[str], count: int = 0) -> list[str]:
    """
    The names of the linear maps that adapters are put on: those of attention and MLP in the layers of some towers.

    Args:
        model (`torch.nn.Module`): A dual encoder, possibly wrapped; its weights may be on the meta device.
        towers (collection of `str`): Names of `TOWERS`.
        count (`int`, *optional*, defaults to 0): In that many last layers; 0 for all.

    Raises:
        ValueError: If the layers of a tower hold no linear map, or the model holds adapters already.
    """
    encoder = DualEncoder.of(model)
    names = {module: name for name, module in encoder.core.named_modules() if isinstance(module, nn.Linear)}
    for module in encoder.unused_modules():
        for part in module.modules():
            names.pop(part, None)
    found = []
    for tower in towers:
        layers = last_layers(model, tower, count)
        maps = [names[module] for layer in layers for module in layer.modules() if module in names]
        if not maps:
            raise ValueError(
                f"`lora_rank`: the {tower} tower of this {encoder.name} has no layers with linear maps, which LoRA is put "
                "on; leave it out of --lora_towers, or train it whole."
            )
        found += maps
    if any(_BASE in f"{name}." for name in found):
        raise ValueError("The model holds adapters of PEFT already; merge them (`merge_and_unload`), or load it again.")
    return found


def check_rank(model: nn.Module, names: Collection[str], rank: int) -> None:
    """
    Refuse adapters of a rank that a map of theirs cannot have.

    Args:
        model (`torch.nn.Module`): A dual encoder, possibly wrapped; its weights may be on the meta device.
        names (collection of `str`): From [`adapted_maps`].
        rank (`int`): The rank.

    Raises:
        ValueError: If it is above the smaller side of a map.
    """
    core = DualEncoder.of(model).core
    sides = {name: min(core.get_submodule(name).weight.shape) for name in names}
    smallest = min(sides, key=sides.__getitem__)
    if rank > sides[smallest]:
        raise ValueError(
            f"`lora_rank={rank}` is above {sides[smallest]}, the highest rank that {smallest} can have; set --lora_rank to "
            f"{sides[smallest]} or less, or leave it out, and all of the weights train."
        )


class LowRankAdapters:
    """
    The adapters that PEFT has put into a model; [`LowRankAdapters.add`] lets it do so.

    Args:
        model (`torch.nn.Module`): The model that holds them, not wrapped.
        config ([`~peft.LoraConfig`]): What they are.
        names (collection of `str`): The linear maps that they are on.
    """

    def __init__(self, model: nn.Module, config, names: Collection[str]):
        self.model, self.config = model, config
        self.layers = {name: model.get_submodule(name) for name in names}
        self.is_merged = False

    @classmethod
    def add(
        cls,
        model: nn.Module,
        names: Collection[str],
        *,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        rslora: bool = False,
        dora: bool = False,
        seed: int = 0,
    ) -> LowRankAdapters:
        """
        Put adapters on linear maps of a model, in place. They train, the maps do not, and nothing changes for the rest.

        At the start they are 0 (with DoRA up to rounding), whatever the seed.

        Args:
            model (`torch.nn.Module`): The model, not wrapped.
            names (collection of `str`): From [`adapted_maps`].
            rank (`int`), alpha (`float`): Their rank, and what `B A` is multiplied by, times the rank.
            dropout (`float`, *optional*, defaults to 0.0): Of what they read.
            rslora (`bool`, *optional*, defaults to `False`): Divide alpha by the root of the rank (rsLoRA).
            dora (`bool`, *optional*, defaults to `False`): Train the norm of each row apart (DoRA).
            seed (`int`, *optional*, defaults to 0): Of the matrices A.

        Returns:
            [`LowRankAdapters`]
        """
        from peft import LoraConfig, inject_adapter_in_model

        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=dropout,
            use_rslora=rslora,
            use_dora=dora,
            target_modules=sorted(names),
            bias="none",
        )
        maps = {id(parameter) for name in names for parameter in model.get_submodule(name).parameters()}
        trained = [p for p in model.parameters() if p.requires_grad and id(p) not in maps]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            inject_adapter_in_model(config, model, adapter_name=_NAME)
        # PEFT freezes whatever is not its own, and leaves its configuration, which copies of the model would carry on.
        for parameter in trained:
            parameter.requires_grad_()
        del model.peft_config
        return cls(model, config, names)

    def parameters(self) -> list[nn.Parameter]:
        """Those of the adapters."""
        bases = {id(p) for layer in self.layers.values() for p in layer.get_base_layer().parameters()}
        return [p for layer in self.layers.values() for p in layer.parameters() if id(p) not in bases]

    def matrices(self) -> list[nn.Parameter]:
        """
        The matrices A and B of the adapters.

        What they add, `s B A`, is all that a weight deviates from its start by, so that the start of both is 0 for whoever
        measures the deviation by them, although A is drawn at random.
        """
        pairs = ((layer.lora_A[_NAME], layer.lora_B[_NAME]) for layer in self.layers.values())
        return [matrix.weight for pair in pairs for matrix in pair]

    def exported(self, parameters: Mapping[str, Tensor], exact: bool = False) -> dict[str, Tensor]:
        """
        The parameters of the plain model.

        Args:
            parameters (`Mapping[str, torch.Tensor]`): Those of the model with adapters, by name.
            exact (`bool`, *optional*, defaults to `False`): Whether to give the very bits that are saved, taken in float64
                and rounded once, without gradient. Otherwise they come with gradient to the adapters.

        Raises:
            ValueError: If an exact one is not finite.
        """
        if self.is_merged:
            return dict(parameters)
        own, result = set(map(id, self.parameters())), {}
        for name, value in parameters.items():
            target, base, rest = name.partition(_BASE)
            if id(value) in own:
                continue
            if base and target in self.layers:
                name = f"{target}.{rest}"
                value = self._effective(target, exact) if rest == "weight" else value
            result[name] = value
        return result

    def _effective(self, name: str, exact: bool) -> Tensor:
        layer = self.layers[name]
        weight = layer.get_base_layer().weight
        down, up, norms = layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight, None
        if _NAME in layer.lora_magnitude_vector:
            norms = layer.lora_magnitude_vector[_NAME].weight
        if exact:
            # On the CPU wherever they are, so that the same bits come out on each device.
            down, up = (matrix.detach().cpu().double() for matrix in (down, up))
            norms = None if norms is None else norms.detach().cpu().double()
        with torch.autocast(weight.device.type, enabled=False):
            whole = weight.detach().cpu().double() if exact else weight
            whole = whole + layer.scaling[_NAME] * (up @ down)
            if norms is not None:
                whole = (norms / whole.norm(dim=1))[:, None] * whole
        if exact and not whole.isfinite().all():
            raise ValueError(f"With its adapter {name} is not finite; the training diverged.")
        return whole.to(weight.dtype)

    @contextmanager
    def merged(self) -> Iterator[None]:
        """The model is a plain one with the weights that are saved, as long as the context lasts."""
        if self.is_merged:
            yield
            return
        weights = [layer.get_base_layer().weight for layer in self.layers.values()]
        with exchanged(weights, [self._effective(name, exact=True) for name in self.layers]):
            try:
                self._put({name: layer.get_base_layer() for name, layer in self.layers.items()})
                self.is_merged = True
                yield
            finally:
                self._put(self.layers)
                self.is_merged = False

    def _put(self, modules: Mapping[str, nn.Module]) -> None:
        for name, module in modules.items():
            parent, _, child = name.rpartition(".")
            setattr(self.model.get_submodule(parent), child, module)

    def save_pretrained(self, directory: str | Path) -> None:
        """
        Write the adapters into `lora_adapter`, as `PeftModel.from_pretrained(base, folder)` loads them onto the model that
        they were trained on. What else has trained comes with them.

        Args:
            directory (`str` or `Path`): The folder of the model.
        """
        own, tensors = set(map(id, self.parameters())), {}
        for target, layer in self.layers.items():
            for name, value in layer.named_parameters(prefix=target):
                if id(value) in own:
                    # PEFT has the adapter's name left out, and the norms without that of their tensor.
                    tensors[name.replace(f".{_NAME}", "").replace("_vector.weight", "_vector")] = value
        tensors |= {name: p for name, p in self.model.named_parameters() if p.requires_grad and id(p) not in own}
        folder = Path(directory) / ADAPTER_FOLDER
        folder.mkdir(exist_ok=True)
        named = {f"{_WRAPPER}{name}": value for name, value in tensors.items()}
        write_tensors(Path(directory) / ADAPTER_WEIGHTS, named, {"format": "pt"})
        config = copy(self.config)
        config.inference_mode = True
        config.save_pretrained(folder)
