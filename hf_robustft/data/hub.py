# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The one test for an id of a data set on the Hub, and for whether the Hub can be asked at all."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import datasets
from huggingface_hub import constants
from huggingface_hub.utils import get_session

#: Seconds after which the Hub counts as out of reach. Its own client would try for half a minute, once per question.
_PATIENCE = 5.0


def is_hub_id(path: str) -> bool:
    """Whether a path has the form owner/name."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path) is not None


def require_hub(path: str) -> None:
    """
    Refuse at once what cannot be a data set of the Hub, or cannot be loaded from there now.

    Args:
        path (`str`): What was given as a path and does not exist on this machine.

    Raises:
        OSError: It does not have the form owner/name; there is a folder of a name like it; or the Hub does not answer
            and there is no copy in the cache.
    """
    if not is_hub_id(path):
        raise FileNotFoundError(
            f"The path {path!r} does not exist; give a folder, a .parquet file or a Hub id owner/name."
        )
    if constants.HF_HUB_OFFLINE or is_cached(path):
        return
    owner, name = Path(path).parent, Path(path).name
    close = (
        difflib.get_close_matches(name, sorted(entry.name for entry in owner.iterdir()), 1) if owner.is_dir() else []
    )
    if close:
        raise FileNotFoundError(
            f"The path {path!r} does not exist: the folder {str(owner)!r} has no {name!r}; did you mean {owner / close[0]}?"
        )
    reason = out_of_reach()
    if reason:
        raise OSError(
            f"No folder {path!r} here, and it cannot be loaded from the Hub, since {constants.ENDPOINT} is out of reach: {reason.rstrip('.')}."
        )


_reached: set[str] = set()


def out_of_reach() -> str:
    """
    Why the Hub does not answer within seconds; `""` if it does, whatever it says, and where this process works offline.
    """
    endpoint = constants.ENDPOINT
    if not constants.HF_HUB_OFFLINE and endpoint not in _reached:
        try:
            get_session().head(endpoint, timeout=_PATIENCE)
        except Exception as error:
            # The library beneath, whose errors share no base with Python's, is another one in each version of the Hub's.
            return " ".join(str(error).split()) or type(error).__name__
        _reached.add(endpoint)
    return ""


def is_cached(path: str) -> bool:
    """Return whether something of the Hub's data set `path` is on this machine."""
    owner, name = path.split("/")
    return (Path(constants.HF_HUB_CACHE) / f"datasets--{owner}--{name}").is_dir() or (
        Path(datasets.config.HF_DATASETS_CACHE) / f"{owner}___{name}".lower()
    ).is_dir()
