# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a checkpoint remembers of the images it has seen: their smallest hashes. `data.overlap` makes and compares them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

HASH_BYTES = 6
HASH_SPACE = 1 << (8 * HASH_BYTES)
#: Hashes of the training set that are kept, in 32 kB.
SKETCH_SIZE = 4096
#: Of each set to measure on fewer: there are more such sets, and they are smaller.
TEST_SKETCH_SIZE = 1024


@dataclass(frozen=True)
class Sketch:
    """
    What is kept of the images of a data set, to compare others with it later.

    Attributes:
        name, role (`str`): Of the data set.
        hashes (`np.ndarray`): uint64, ascending.
        bound (`int`): Every hash of the set below it is among `hashes`.
        read (`int`): Images that were looked at.
        images (`int`, *optional*): Images of the whole set, where it is known.
    """

    name: str
    role: str
    hashes: np.ndarray = field(repr=False)
    bound: int
    read: int
    images: int | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        packed = self.hashes.astype(">u8").tobytes()
        packed = b"".join(packed[start + 8 - HASH_BYTES : start + 8] for start in range(0, len(packed), 8))
        return {
            "name": self.name,
            "role": self.role,
            "images": self.images,
            "read": self.read,
            "bound": self.bound,
            "blake2b_48": base64.b64encode(packed).decode("ascii"),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Sketch:
        """
        From what `to_dict` gave.

        Raises:
            ValueError: If a part is missing or of the wrong kind.
        """
        try:
            packed = base64.b64decode(content["blake2b_48"], validate=True)
            parts = [packed[start : start + HASH_BYTES] for start in range(0, len(packed), HASH_BYTES)]
            hashes = np.array([int.from_bytes(part, "big") for part in parts], dtype=np.uint64)
            numbers = content["bound"], content["read"], content.get("images") or 0
            whole = all(type(number) is int and number >= 0 for number in numbers)
            texts = all(isinstance(content[key], str) for key in ("name", "role"))
        except (KeyError, TypeError, AttributeError, binascii.Error) as error:
            raise ValueError(f"The hashes of a data set's images are incomplete ({error!r})") from None
        if not whole or not texts or len(packed) % HASH_BYTES or (np.diff(hashes.astype(np.int64)) <= 0).any():
            raise ValueError("The hashes of a data set's images are damaged")
        return cls(content["name"], content["role"], hashes, content["bound"], content["read"], content.get("images"))
