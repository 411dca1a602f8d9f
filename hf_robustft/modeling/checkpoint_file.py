# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Where a checkpoint is: in a folder here, or on the Hub."""

from __future__ import annotations

import os
import re
import time
import warnings
from pathlib import Path

from huggingface_hub import (
    _CACHED_NO_EXIST,
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from ..data.messages import beside, one_line
from ..data.packaged import CHECKPOINTS, asset_path
from ..data.pinned import pin, pinned
from ..files import settle

#: Seconds for an answer of the Hub, and before it is asked a second and last time.
_ANSWER, _PAUSE = 5.0, 1.0
#: Endings of files. A model on the Hub may have a dot in its name, but hardly one of these at its end.
_FILE_ENDINGS = (
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".json", ".yaml", ".zip", ".tar", ".gz"),
    *(".msgpack", ".h5", ".onnx", ".gguf", ".txt"),
)


class Unreachable(OSError):
    """The Hub cannot be asked for a file that is not in the cache."""


def local_folder(source: str | Path) -> Path | None:
    """
    The folder that a checkpoint's name means, or `None` if it can only be an id on the Hub. A change of its files that was
    interrupted is finished first.

    Args:
        source (`str` or `Path`): A path, an id `owner/name`, or the name of a checkpoint of the package, which a folder here
            does not hide. What looks like a path is never asked of the Hub.

    Raises:
        OSError: If it is a file, a path where there is no folder, or neither a path nor a Hub id.
        OSError, ValueError: As [`~hf_robustft.files.settle`].
    """
    if is_packaged(source):
        if (Path(source) / "config.json").is_file():
            warnings.warn(
                f"{source!r} is the packaged checkpoint, not the folder {source} here; give ./{source} for that.",
                # One place for all callers: said once.
                stacklevel=1,
            )
        return asset_path(source)
    name = os.fspath(source)
    path = Path(name).expanduser()
    if path.is_dir():
        settle(path)
        return path
    if path.is_file():
        raise NotADirectoryError(f"{name} is a file; give the folder that it lies in.")
    nearest = next((parent for parent in path.absolute().parents if parent.is_dir()), path.anchor)
    if not isinstance(source, str) or _looks_local(name):
        raise FileNotFoundError(
            f"There is no folder {name} (the path exists as far as {nearest}); give one that save_pretrained wrote."
        )
    if not is_owner_and_name(name):
        raise FileNotFoundError(f"There is no folder {name}, and it is not a Hub id owner/name; correct the path.")
    parent = name.split("/")[0]
    if Path(parent).is_dir() and not isinstance(try_to_load_from_cache(name, "config.json"), str):
        raise FileNotFoundError(
            f"There is no folder {Path(name).name!r} in the folder {parent!r} here{beside(name) or '; correct the path'}"
            f"{' If' if beside(name) else ', or if'} {name} is meant on the Hub, download it first by `hf download {name}`."
        )
    return None


def is_packaged(source: str | Path) -> bool:
    """Whether a `source` is the name of a checkpoint of the package; a `Path` is always a folder."""
    return isinstance(source, str) and source in CHECKPOINTS


def is_owner_and_name(name: str) -> bool:
    """Whether a name has the form of a repository on the Hub, `owner/name`."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def _looks_local(name: str) -> bool:
    separators = name.count("/") + (name.count(os.sep) if os.sep != "/" else 0)
    return name.startswith((".", "/", "~", os.sep)) or separators > 1 or name.lower().endswith(_FILE_ENDINGS)


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
        OSError: If `source` is neither a folder nor the id of a repository that can be read, or none of `names` is in
            it.
    """
    found = local_folder(source)
    if found is not None:
        return found
    folder = None
    for name in names:
        # The first file says which commit it is; the others are of that one.
        file = file_from_hub(str(source), name, revision if folder is None else folder.name, token)
        folder = folder if file is None else file.parent
    if folder is None:
        raise FileNotFoundError(
            f"There is no {' or '.join(names)} in {source} on the Hub; give a model that hf_robustft has trained."
        )
    return folder


def file_from_hub(source: str, name: str, revision: str | None = None, token: str | bool | None = None) -> Path | None:
    """
    The file `name` of the repository `source` at a `revision`, read with a `token`, downloaded or from the cache. Of one command
    all files are of the commit that the revision stood for when the first of them was asked for.

    Returns:
        `Path`, *optional*: `None` if the repository has none of that name.

    Raises:
        Unreachable: If it is not in the cache, and the Hub gives no answer within seconds.
        OSError: If there is no such repository or revision, or it may not be read.
    """
    asked, revision = revision, pinned(source, revision)
    cached = try_to_load_from_cache(source, name, revision=revision)
    if cached is _CACHED_NO_EXIST and re.fullmatch("[0-9a-f]{40}", revision or ""):
        # A commit has no new files.
        return None
    try:
        if not isinstance(cached, str):
            _knock(source, name, revision, token)
        file = Path(hf_hub_download(source, name, revision=revision, token=token))
        pin(source, asked, file.parents[name.count("/")].name)
        return file
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        # Offline: what is not in the cache is missing in the repository only if that was seen before.
        if try_to_load_from_cache(source, name, revision=revision) is _CACHED_NO_EXIST:
            return None
        raise _unreachable(source, name, error) from error
    except RepositoryNotFoundError as error:
        raise OSError(
            f"{source} is neither a folder here nor a model on the Hub that you may read: {one_line(error)}"
        ) from error
    except RevisionNotFoundError as error:
        raise OSError(f"{source} on the Hub has no revision {revision!r}; give a branch, tag or commit.") from error
    except EntryNotFoundError:
        return None
    except HTTPError as error:
        # Of its answers and of the connection, which may break after the first bytes.
        raise OSError(f"{name} of {source} cannot be fetched from the Hub: {one_line(error)}") from error


def _knock(source: str, name: str, revision: str | None, token: str | bool | None) -> None:
    # `hf_hub_download` would repeat for half a minute what nobody answers.
    if constants.is_offline_mode():
        return
    url = hf_hub_url(source, name, revision=revision)
    for attempt in range(2):
        try:
            get_hf_file_metadata(url, token=token, timeout=min(_ANSWER, constants.HF_HUB_ETAG_TIMEOUT))
            return
        except HfHubHTTPError:
            # It answers; what it says, the download says too.
            return
        except (HTTPError, OSError) as error:
            if attempt:
                raise _unreachable(source, name, error) from error
            time.sleep(_PAUSE)


def _unreachable(source: str, name: str, error: Exception) -> Unreachable:
    if isinstance(error.__cause__, HfHubHTTPError):
        # Its client says of every refusal that the connection may be broken.
        return Unreachable(f"{source} is not a folder here, and the Hub does not give its {name}: {one_line(error.__cause__)}")
    return Unreachable(
        f"{source} is not a folder here, and the Hub cannot be reached for its {name}, which is not in the cache: "
        f"{one_line(error)}"
    )
