# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The files beside a checkpoint's weights, from a folder or from the Hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)


def checkpoint_folder(
    source: str | Path, *names: str, revision: str | None = None, token: str | bool | None = None
) -> Path:
    """
    The folder that holds files of a checkpoint.

    Args:
        source (`str` or `Path`): A folder, or an id on the Hub.
        names (`str`): The files that are needed; from the Hub they are downloaded, or taken from its cache.
        revision (`str`, *optional*), token (`str` or `bool`, *optional*): On the Hub.

    Returns:
        `Path`: `source` itself if it is a folder, whatever is in it; else the cached commit, of which all files are, with
        those of `names` that the repository has.

    Raises:
        OSError: If `source` is neither a folder nor the id of a repository that can be read, or none of `names` is in it.
    """
    if Path(source).is_dir():
        return Path(source)
    folder = None
    for name in names:
        # The first file says which commit it is; the others are of that one.
        file = _from_hub(str(source), name, revision if folder is None else folder.name, token)
        folder = folder if file is None else file.parent
    if folder is None:
        raise FileNotFoundError(
            f"There is no {' or '.join(names)} in {source} on the Hub; give a model that hf_robustft has trained."
        )
    return folder


def _from_hub(source: str, name: str, revision: str | None, token: str | bool | None) -> Path | None:
    """A file of a repository, or `None` if the repository has none of that name."""
    try:
        return Path(hf_hub_download(source, name, revision=revision, token=token))
    except HFValidationError:
        raise FileNotFoundError(
            f"There is no folder {source}, and it is no Hub id owner/name; correct the path."
        ) from None
    except LocalEntryNotFoundError as error:
        # Offline: what is not in the cache is missing in the repository only if that was seen before.
        if try_to_load_from_cache(source, name, revision=revision) is _CACHED_NO_EXIST:
            return None
        raise OSError(
            f"{source} is no folder here, and the Hub cannot be reached for its {name}, which is not in the cache: {error}"
        ) from error
    except RepositoryNotFoundError as error:
        raise OSError(
            f"{source} is neither a folder here nor a model on the Hub that you may read: {error}"
        ) from error
    except EntryNotFoundError:
        return None
