# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
The last layer of a tower, computed for the one token that is read.

An embedding is read at one token of the last layer: the class token, or the end of a caption. That token needs the keys and
values of all tokens, and a query, an output and an MLP of its own alone. The others' are five sixths of the layer, and
nobody reads them. What is left out changes nothing but rounding, in gradients too: those of tokens that nobody reads are 0.
"""

from __future__ import annotations

import inspect
import logging
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .noise import draws_noise

#: What the towers are told, as an argument that goes through to their layers: which token is read. An index for all rows,
#: or a tensor of one for each. Both towers get all arguments of the model, so there is one for each side.
ARGUMENTS = {"image": "read_image_token", "text": "read_text_token"}
#: Implementations of attention that a single query can be given to.
_ATTENTIONS = ("eager", "sdpa")
#: Those whose hooks do not look at the tokens: sharding, names of modules for a counter of operations, and Transformers' own
#: (its record is checked by its setting).
_OTHER_HOOKS = (
    "torch.distributed.",
    "torch.utils.module_tracker",
    "transformers.utils.output_capturing",
    "transformers.modeling_utils",
    "transformers.integrations.",
    "accelerate.",
)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
#: Where functions are written that compute what models of Transformers say.
_LIBRARIES = ("transformers.", "torch.", "accelerate.", "peft.")
#: Modules that compute each token by itself, or stand before the layers.
_EACH_TOKEN = ("transformers.models.", "transformers.activations", "peft.")
_EACH_TOKEN_CLASSES = (
    *(nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.Conv2d, nn.Identity, nn.Dropout),
    *(nn.GELU, nn.ReLU, nn.SiLU, nn.Sigmoid, nn.Tanh),
    *(nn.ModuleList, nn.ModuleDict, nn.ParameterDict, nn.Sequential),
)

_said: set[str] = set()
_logger = logging.getLogger(__name__)


def at(values: Tensor, token: int | Tensor) -> Tensor:
    """
    One token of each row.

    Args:
        values (`torch.Tensor` of shape `(rows, tokens, width)`): What each token has.
        token (`int` or `torch.Tensor` of shape `(rows,)`): Which one.

    Returns:
        `torch.Tensor` of shape `(rows, 1, width)`.
    """
    if isinstance(token, int):
        return values[:, token, None]
    # By its shape, which torch.export may leave open; `len` is a number.
    return values[torch.arange(values.shape[0], device=values.device), token][:, None]


def mask_row(mask: Tensor | None, token: int | Tensor, tokens: int, is_causal: bool) -> Tensor | None:
    """
    What one token of each row may look at.

    Args:
        mask (`torch.Tensor` of shape `(rows or 1, heads or 1, tokens or 1, tokens)`, *optional*): What each token may.
        token (`int` or `torch.Tensor` of shape `(rows,)`): Which one.
        tokens (`int`): Tokens of a row.
        is_causal (`bool`): Whether without a mask a token looks at itself and those before it alone. Its place is then a tensor.

    Returns:
        `torch.Tensor` of shape `(rows or 1, heads or 1, 1, tokens)`, `None` if it may look at all.
    """
    if mask is None:
        return (torch.arange(tokens, device=token.device) <= token[:, None])[:, None, None] if is_causal else None
    if mask.shape[-2] == 1:
        return mask
    if isinstance(token, int):
        return mask[:, :, token, None]
    mask = mask.expand(token.shape[0], -1, -1, -1)
    return mask[torch.arange(token.shape[0], device=mask.device), :, token][:, :, None]


def _heads(values: Tensor, size: int) -> Tensor:
    return values.unflatten(-1, (-1, size)).transpose(1, 2)


def _attended(attention: nn.Module, parts: tuple[Tensor, Tensor, Tensor], size: int, scale: float, mask: Tensor | None) -> Tensor:
    """What `attention` makes of a query, keys and values `(rows, 1 or tokens, width)`, before its output map."""
    eager = sys.modules[own_class(attention).__module__].eager_attention_forward
    interface = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager)
    query, keys, values = (_heads(part, size) for part in parts)
    return interface(attention, query, keys, values, mask, scaling=scale, dropout=0.0, is_causal=False)[0].flatten(2)


def _plainly_attended(parts: tuple[Tensor, Tensor, Tensor], size: int, scale: float, mask: Tensor | None) -> Tensor:
    """As [`_attended`], of towers that have one way of attention."""
    query, keys, values = (_heads(part, size) for part in parts)
    scores = query @ keys.transpose(-1, -2) * scale
    weights = (scores if mask is None else scores + mask).softmax(dim=-1)
    return (weights @ values).transpose(1, 2).flatten(2)


def _projected(attention: nn.Module, hidden: Tensor, token: int | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return attention.q_proj(at(hidden, token)), attention.k_proj(hidden), attention.v_proj(hidden)


def _clip(layer: nn.Module, hidden: Tensor, token: int | Tensor, mask: Tensor | None) -> Tensor:
    attention = layer.self_attn
    parts = _projected(attention, layer.layer_norm1(hidden), token)
    read = at(hidden, token) + attention.out_proj(_attended(attention, parts, attention.head_dim, attention.scale, mask))
    return read + layer.mlp(layer.layer_norm2(read))


def _aimv2(layer: nn.Module, hidden: Tensor, token: int | Tensor, mask: Tensor | None) -> Tensor:
    attention = layer.attention
    parts = _projected(attention, layer.rms_norm1(hidden), token)
    read = at(hidden, token) + attention.out_proj(_attended(attention, parts, attention.head_dim, attention.scale, mask))
    return read + layer.ffn(layer.rms_norm2(read))


def _blip_image(layer: nn.Module, hidden: Tensor, token: int | Tensor, mask: Tensor | None) -> Tensor:
    attention = layer.self_attn
    # One map makes all three, so that the queries of the others cannot be left out of it.
    query, keys, values = attention.qkv(layer.layer_norm1(hidden)).chunk(3, dim=-1)
    context = _plainly_attended((at(query, token), keys, values), attention.head_dim, attention.scale, mask)
    read = at(hidden, token) + attention.projection(context)
    return read + layer.mlp(layer.layer_norm2(read))


def _bert(layer: nn.Module, hidden: Tensor, token: int | Tensor, mask: Tensor | None) -> Tensor:
    attention, own, size = layer.attention.self, at(hidden, token), layer.attention.self.attention_head_size
    parts = attention.query(own), attention.key(hidden), attention.value(hidden)
    if hasattr(attention, "scaling"):
        context = _attended(attention, parts, size, attention.scaling, mask)
    else:
        context = _plainly_attended(parts, size, 1 / math.sqrt(size), mask)
    read = layer.attention.output(context, own)
    return layer.output(layer.intermediate(read), read)


#: How a layer is computed for one token, by its class in Transformers.
_LAYERS: dict[str, Callable[[nn.Module, Tensor, int | Tensor, Tensor | None], Tensor]] = {
    "CLIPEncoderLayer": _clip,
    "MetaClip2EncoderLayer": _clip,
    "AltCLIPEncoderLayer": _clip,
    "ChineseCLIPVisionLayer": _clip,
    "SiglipEncoderLayer": _clip,
    "Siglip2EncoderLayer": _clip,
    "Aimv2EncoderLayer": _aimv2,
    "BlipEncoderLayer": _blip_image,
    "ChineseCLIPTextLayer": _bert,
    "AltRobertaLayer": _bert,
    "BlipTextLayer": _bert,
}


def own_class(module: nn.Module) -> type:
    """The class of a module as it was built: FSDP2 and parametrizations put a subclass around it."""
    others = ("torch.distributed", "torch.nn.utils.parametrize")
    return next(kind for kind in type(module).__mro__ if not kind.__module__.startswith(others) and "FSDP" not in kind.__name__)


def _forward_of(argument: str) -> Callable[..., Tensor]:
    def forward(self: nn.Module, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        token, is_causal = kwargs.pop(argument, None), kwargs.get("is_causal", False)
        if token is None or (is_causal and isinstance(token, int)):
            return type(self).forward(self, hidden_states, *args, **kwargs)
        mask = kwargs["attention_mask"] if "attention_mask" in kwargs else args[0] if args else None
        tokens = hidden_states.shape[1]
        row = mask_row(mask, token, tokens, is_causal)
        read = _LAYERS[own_class(self).__name__](self, hidden_states, token, row)
        # Where it is looked for: a tower takes the first or the last of the tokens, or the one at the same place.
        return read if isinstance(token, int) else read.expand(-1, tokens, -1)

    return forward


_FORWARDS = {side: _forward_of(argument) for side, argument in ARGUMENTS.items()}


#: What [`is_theirs`] and [`_lets_through`] have found of a function, for each step asks of the same ones.
_theirs: WeakKeyDictionary[Callable, bool] = WeakKeyDictionary()
_open: WeakKeyDictionary[Callable, bool] = WeakKeyDictionary()


def _all_theirs(function: Any) -> bool:
    while function is not None:
        function = getattr(function, "__func__", function)
        # Not `__module__`, which a wrapper copies from what it wraps.
        place = getattr(function, "__globals__", {}).get("__name__", type(function).__module__)
        if not place.startswith(_LIBRARIES):
            return False
        function = getattr(function, "__wrapped__", None)
    return True


def is_theirs(function: Any) -> bool:
    """Whether a function, and what it wraps, is written in a library, and not put in the place of one that is."""
    function = getattr(function, "__func__", function)
    if not isinstance(function, FunctionType):
        return _all_theirs(function)
    if function not in _theirs:
        _theirs[function] = _all_theirs(function)
    return _theirs[function]


def _is_original(module: nn.Module, side: str) -> bool:
    """Whether a module computes what its class in a library computes, or what is put in its place here; each token by itself."""
    kind, forward = own_class(module), vars(module).get("forward")
    # Another thread may be reading.
    if forward is not None and getattr(forward, "__func__", None) is not _FORWARDS[side]:
        return False
    by_itself = kind.__module__.startswith(_EACH_TOKEN) or kind in _EACH_TOKEN_CLASSES
    # Those that hold others have no forward.
    return by_itself and is_theirs(getattr(type(module), "forward", None))


def _modules(tower: nn.Module, layers: list[nn.Module]) -> Iterator[nn.Module]:
    """The modules of a tower, without those in other layers than its last, and without those that make weights."""
    rest = [tower]
    while rest:
        module = rest.pop()
        yield module
        rest.extend(child for name, child in module.named_children() if name != "parametrizations" and child not in layers[:-1])


def _places(module: nn.Module, part: nn.Module) -> int:
    """In how many places of a module a part stands."""
    children = [child for child in module._modules.values() if child is not None]
    return sum(1 if child is part else _places(child, part) for child in children)


def _hooked(module: Any, prefix: str = "") -> bool:
    hooks = [hook for name in _HOOKS for hook in (getattr(module, prefix + name, None) or {}).values()]
    sources = (getattr(getattr(hook, "func", hook), "__module__", None) or "" for hook in hooks)
    return any(not source.startswith(_OTHER_HOOKS) for source in sources)


def _attending(layer: nn.Module) -> list[nn.Module]:
    """The attention of a layer, if it is known, and what attends in it: where it is a pair of modules, the first of them."""
    attentions = [getattr(layer, name) for name in ("self_attn", "attention") if hasattr(layer, name)]
    return [*attentions, *(getattr(attention, "self", attention) for attention in attentions)]


def _lets_through(module: nn.Module) -> bool:
    """Whether a module takes arguments that it does not know."""
    forward = vars(module).get("forward", type(module).forward)
    function = getattr(forward, "__func__", forward)
    if function not in _open:
        parameters = inspect.signature(function).parameters.values()
        _open[function] = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    return _open[function]


def _whole(
    wrappers: list[nn.Module], tower: nn.Module, layers: list[nn.Module], other_layers: list[nn.Module], side: str
) -> str | None:
    """Why the last layer must be computed for all tokens, `None` if it need not."""
    core, layer = wrappers[-1], layers[-1]
    if any(isinstance(wrapper, nn.DataParallel) for wrapper in wrappers):
        return "copies of it on several devices would share one method"
    if own_class(layer).__name__ not in _LAYERS:
        return f"a {own_class(layer).__name__} is not among the layers that are known"
    if _places(core, layer) > 1:
        return "it stands in more than one place"
    # The other layers get the argument, and must let it through.
    others = [module for other in layers[:-1] for module in (other, *_attending(other))]
    around = [*others, *_modules(tower, layers)]
    if not all(_is_original(module, side) for module in around):
        return "another computation was put in its place"
    # Those of the other tower, too, if both are computed in one call.
    if not all(_lets_through(module) for other in other_layers for module in (other, *_attending(other)[:1])):
        return "a layer of the other tower takes no more arguments"
    attends = _attending(layer)[-1]
    home = {own_class(module).__module__.rpartition(".")[0] for module in (core, tower, layer, attends)}
    eager = getattr(sys.modules[own_class(attends).__module__], "eager_attention_forward", None)
    interface = ALL_ATTENTION_FUNCTIONS.get_interface(attends.config._attn_implementation, eager)
    if len(home) > 1 or not is_theirs(interface):
        return "another computation was put in its place"
    if getattr(attends, "is_causal", False):
        return "its attention is causal by itself"
    config = tower.config
    if any(getattr(config, name, False) for name in ("output_hidden_states", "output_attentions")):
        return "the configuration asks for the outputs of all layers"
    for kind in (config._attn_implementation, attends.config._attn_implementation):
        if kind not in _ATTENTIONS:
            return f"attention is {kind!r}, and only {' and '.join(_ATTENTIONS)} take a single query"
    if _hooked(nn.modules.module, "_global") or any(map(_hooked, [*wrappers, *_modules(tower, layers)])):
        return "a hook looks at it"
    if draws_noise(layer):
        return "it drops out, and each token draws a mask"
    return None


@contextmanager
def reading(
    wrappers: list[nn.Module],
    tower: nn.Module,
    side: str,
    layers: list[nn.Module],
    other_layers: list[nn.Module],
    token: int | Tensor,
) -> Iterator[dict[str, int | Tensor]]:
    """
    Inside the block, a tower that is given the argument which the block gets computes its last layer for one token.

    Without the argument it computes all tokens, as ever, and after the block nothing of this is left in the model. It steps
    aside, and says why in the log, if outputs of all layers are asked for, a hook or another computation is in the way, dropout
    is drawn, or attention is of another kind.

    Args:
        wrappers (List of `torch.nn.Module`): The wrappers of the model, from the outermost one, and at last the model itself.
        tower (`torch.nn.Module`): One of its towers.
        side (`str`): `"image"` or `"text"`.
        layers (List of `torch.nn.Module`): The layers of that tower.
        other_layers (List of `torch.nn.Module`): The layers of the other tower, which is told the same.
        token (`int` or `torch.Tensor` of shape `(rows,)`): The token at which its output is read.

    Yields:
        `dict`: The argument, or nothing.
    """
    reason = _whole(wrappers, tower, layers, other_layers, side) if layers else "its layers are not of one kind"
    if reason is not None:
        said = f"The last layer of the {side} tower is computed for all its tokens: {reason}."
        if said not in _said:
            _said.add(said)
            _logger.info(said)
        yield {}
        return
    layer = layers[-1]
    # A method that stayed would go along with copies of the layer, and compute with the weights of this one.
    layer.forward = MethodType(_FORWARDS[side], layer)
    try:
        yield {ARGUMENTS[side]: token}
    finally:
        # If two threads read, the other one now computes all tokens, which gives the same.
        vars(layer).pop("forward", None)
