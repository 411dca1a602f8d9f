# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Files that are changed at random in ways that readers stumble over, and the contract that readers keep."""

from __future__ import annotations

import copy
import io
import json
import random
import struct
import tarfile
from collections.abc import Callable
from typing import Any

import pyarrow as pa

#: What takes the place of a value.
VALUES = (
    *(None, True, False, 0, -1, 1, 2**63, 10**400, 1e308, -0.5, "", "x", "1", "../../x", "/etc/passwd", "a\u2028b", "\0"),
    *("<script>", "=1+1", "{}" * 3, "x" * 10_000, [], {}, [None], [[]], {"": None}, [0] * 50, {"a": {"b": [1]}}),
)


def mangled_bytes(content: bytes, draw: random.Random) -> bytes:
    """Some bytes changed, left out, doubled, or cut off."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8, 40))):
        place, kind = draw.randrange(len(data) + 1), draw.randrange(6)
        if kind == 0 and data:
            data[min(place, len(data) - 1)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[place : place + 4] = struct.pack(draw.choice("<>") + "I", draw.choice((0, 1, 2**31 - 1, 2**32 - 1, 70_000)))
        elif kind == 2:
            del data[place : place + draw.choice((1, 4, 100))]
        elif kind == 3:
            data[place:place] = data[place : place + 64]
        elif kind == 4:
            # Headers stand at the beginning.
            data[draw.randrange(min(64, len(data) or 1)) :][:1] = draw.randbytes(1)
        elif draw.random() < 0.3:
            del data[place:]
    return bytes(data)


def mangled_value(content: Any, draw: random.Random) -> Any:
    """JSON of which one to three values are replaced, left out, renamed or nested."""
    content = copy.deepcopy(content)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        places: list[tuple[Any, Any]] = []
        open_ = [content]
        while open_:
            item = open_.pop()
            keys = list(item) if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ()
            places += [(item, key) for key in keys]
            open_ += [item[key] for key in keys]
        if not places:
            return draw.choice(VALUES)
        item, key = draw.choice(places)
        kind = draw.randrange(8)
        if kind == 0:
            del item[key]
        elif kind == 1 and isinstance(item, dict):
            item[draw.choice(("", "x", "../x", "name", key + "2"))] = item.pop(key)
        elif kind == 2:
            item[key] = [item[key]]
        elif kind == 3:
            item[key] = _alike(item[key], draw)
        else:
            item[key] = copy.deepcopy(draw.choice(VALUES))
    return content


def _alike(value: Any, draw: random.Random) -> Any:
    """Another value of the same kind, which checks of kinds alone let pass."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return draw.choice((0, 1, 0.5, 2 * value, -value, value + 1, 1e-300, 2**40))
    if isinstance(value, str):
        return draw.choice((value[:1], value * 2, value.swapcase(), "|", "a\nb", "\ud800", "\u202ea"))
    if isinstance(value, list):
        return draw.choice((value[1:], value * 2, value[::-1], []))
    return {} if isinstance(value, dict) else 0


def mangled_json(content: Any, draw: random.Random) -> bytes:
    """The text of JSON: mostly with other values, sometimes not JSON any more."""
    kind = draw.randrange(10)
    if kind == 0:
        return mangled_bytes(json.dumps(content).encode(), draw)
    if kind == 1:
        return draw.choice((b"[" * 100_000, b'{"a":' * 50_000, b"", b"null", b"NaN", b"\xff\xfe{\0}\0", b'{"format": 1e999}'))
    return json.dumps(mangled_value(content, draw)).encode()


def mangled_safetensors(content: bytes, draw: random.Random) -> bytes:
    """A safetensors file of which the header says something else, or its length."""
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    kind = draw.randrange(5)
    if kind == 0:
        return mangled_bytes(content, draw)
    if kind == 1:
        return draw.choice((0, 1, length - 1, length + 1, 2**40, 2**63)).to_bytes(8, "little") + content[8:]
    text = mangled_json(header, draw)
    if kind == 2:
        # The same key twice.
        text = text[:-1] + b"," + text[1:]
    return len(text).to_bytes(8, "little") + text + data[: len(data) if kind < 4 else draw.randrange(len(data))]


def mangled_table(table: pa.Table, draw: random.Random) -> pa.Table:
    """A table of which a column is missing, called otherwise, of another kind, or holds what it should not."""
    metadata = table.schema.metadata
    for _ in range(draw.choice((1, 1, 2))):
        place = draw.randrange(table.num_columns)
        name, column, kind = table.column_names[place], table.column(place), draw.randrange(7)
        values = column.to_pylist()
        if kind == 0:
            table = table.remove_column(place)
        elif kind == 1:
            table = table.rename_columns([draw.choice(("x", "energy", "")) if i == place else of for i, of in enumerate(table.column_names)])
        elif kind == 2:
            table = table.append_column(draw.choice(("x", "../x", "a\u2028")), pa.array([draw.choice((0.5, "x", [1], None))] * len(table)))
        elif kind == 3:
            table = table.set_column(place, name, pa.array([str(value) for value in values]))
        elif kind == 4:
            table = table.slice(draw.randrange(len(table)), draw.choice((0, 1, 5)))
        else:
            odd = (None, "", "x", "\0") if any(isinstance(value, str) for value in values) else (None, -1, 0, 2**40)
            odd = (*odd, float("nan"), float("inf"), -1e300, 1e300) if pa.types.is_floating(column.type) else odd
            for _ in range(draw.choice((1, 1, len(values)))):
                if values:
                    values[draw.randrange(len(values))] = draw.choice(odd)
            table = table.set_column(place, name, pa.array(values, column.type.value_type if pa.types.is_dictionary(column.type) else column.type).cast(column.type))
    return table.replace_schema_metadata(metadata if draw.random() < 0.9 else {b"format": b"2"})


def mangled_tar(files: dict[str, bytes], draw: random.Random) -> bytes:
    """A tar with members that lead outside, are links, devices or pipes, or say that they are huge."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            kind = draw.randrange(12)
            if kind == 0:
                member.name = draw.choice((f"/tmp/{name}", f"../../{name}", f"a/../../{name}", "", ".", name + "\0", "x" * 300))
            elif kind == 1:
                member.type, member.size = draw.choice((tarfile.SYMTYPE, tarfile.LNKTYPE)), 0
                member.linkname = draw.choice(("/etc/passwd", "../../x", name, "missing"))
            elif kind == 2:
                member.type, member.size = draw.choice((tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE)), 0
            elif kind == 3:
                content = mangled_bytes(content, draw)
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content) if member.isreg() else None)
    content = buffer.getvalue()
    return mangled_bytes(content, draw) if draw.random() < 0.3 else content


def breach(read: Callable[[], Any]) -> str | None:
    """What of the contract reading has broken: success, or a ValueError or OSError with something to say in one line, is none of it."""
    try:
        read()
    except (ValueError, OSError) as error:
        said = str(error)
        return None if said.strip() and not {"\n", "\r"} & set(said) else f"{type(error).__name__}, not one line: {said[:200]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return None
