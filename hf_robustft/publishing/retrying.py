# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Calls of the Hub repeated where its client gives up at once: creating a repository, committing, reading a file.

The client's own `http_backoff` repeats single requests, and these calls do not use it. A general retry library would
need the same two decisions from us (which errors pass, how long the Hub asks to wait); what is left is the loop.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

# The HTTP library's base class, by the name under which the client has it: the library itself has changed before.
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

RETRIES = 5
#: Statuses of a Hub that is busy or broken for the moment. 412: somebody committed in between.
PASSING = (408, 412, 425, 429, 500, 502, 503, 504)
LONGEST_WAIT = 60.0


def with_retries(call: Callable[[], Result], what: str, *, retries: int = RETRIES, wait: float = 1.0) -> Result:
    """
    What `call` returns, called again after errors that may pass.

    Args:
        call: A function without arguments that may be repeated.
        what (`str`): What it does, for the log.
        retries (`int`, *optional*, defaults to 5): Calls after the first.
        wait (`float`, *optional*, defaults to 1.0): Seconds before the first of these; then twice as long each time,
            and never shorter than the Hub asks for, up to 60.

    Raises:
        Exception: The last error, or the first that would come again.
    """
    for attempt in range(retries + 1):
        try:
            return call()
        except Exception as error:
            if attempt == retries or not may_pass(error):
                raise
            seconds = min(max(wait * 2**attempt, _asked_for(error)), LONGEST_WAIT)
            logger.warning("%s failed (%s); trying again in %.0f s.", what, summary(error), seconds)
            time.sleep(seconds)
    raise ValueError(f"retries is {retries}; give 0 or more.")


def may_pass(error: BaseException) -> bool:
    """Whether the same call may succeed later: a busy server, a broken or slow connection, a cut answer."""
    if isinstance(error, OfflineModeIsEnabled):
        return False
    if isinstance(error, (json.JSONDecodeError, ConnectionError, TimeoutError)):
        return True
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        # A download that could not reach the Hub says only that the file is not in the cache.
        return may_pass(error.__cause__)
    if not isinstance(error, HTTPError):
        return False
    response = getattr(error, "response", None)
    return response is None or response.status_code in PASSING


def summary(error: BaseException) -> str:
    """The first line of an error, with its kind where that says more."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _asked_for(error: BaseException) -> float:
    headers: Any = getattr(getattr(error, "response", None), "headers", {}) or {}
    value = str(headers.get("Retry-After", ""))
    return float(value) + 1 if value.isdigit() else 0.0
