# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The rows that a registered benchmark means, read as they come."""

from __future__ import annotations

from datasets import ClassLabel

from hf_robustft.data.registered_data import (
    RegisteredData,
    compare_rows,
    read_registered,
    registered_rule,
    require_copy,
    require_domains,
)
from hf_robustft.data.repositories import image_column_of, label_key, open_first
from hf_robustft.data.stream_rows import RowMeaning, RowStream, first_rows, stream_of
from hf_robustft.data.stream_sources import Opened, count_rows


def stream_registered(data: RegisteredData, where: str, training: bool = False) -> tuple[RowStream, dict]:
    """The rows that a registered benchmark means, to be read as they come; the twin of `read_registered`.

    A folder of one's own is listed, not copied, so it is read as if it were not streamed.

    Args:
        data: what the registry knows.
        where: words for the benchmark, used in messages.
        training: whether the rows are to be trained on.

    Returns:
        The stream, with what `read_registered` checks of columns checked of each row when it comes, and where it is read
        from, as fields of a `Benchmark`.

    Raises:
        OSError, ValueError: as `open_first`; parts that are drawn by row number, of files that do not say their rows.
    """
    if data.folder is not None:
        dataset, place = read_registered(data, where)
        return stream_of(
            dataset,
            RowMeaning(where, "image", "label", rule=registered_rule(dataset.features["label"], data.label_names)),
        ), place
    require_copy(data, where)
    opened, repository = open_first(data.repositories, data.label_names, where, streaming=True)
    features = opened.dataset.features
    label, domain = repository.label_column, repository.domain_column if data.all_domains else None
    if domain is not None:
        require_domains(list(features), domain, where)
    meaning = RowMeaning(
        where,
        image_column_of(list(features), repository.image_columns, where),
        label,
        rule=registered_rule(features[label], data.label_names),
        key=label_key,
        positions=data.positions,
        domain_column=domain,
        domain_names=tuple(features[domain].names) if domain and isinstance(features[domain], ClassLabel) else None,
        all_domains=frozenset(map(label_key, data.all_domains)),
        domains=frozenset(map(label_key, data.domains)),
        share=data.share,
        seed=data.seed,
        first_rows=_first_rows(opened, data, where),
    )
    compare_rows(repository, opened.declared, where)
    stream = stream_of(opened, meaning, repository.rows, repository.rows_verified, training)
    return stream, repository.place


def _first_rows(opened: Opened, data: RegisteredData, where: str) -> tuple[int, ...]:
    """Number of the first row of each shard, where rows are drawn by number."""
    if data.share == (0.0, 1.0) or opened.dataset.num_shards == 1:
        return (0,) * (data.share != (0.0, 1.0))
    counts = count_rows(opened)
    if counts is None:
        raise ValueError(
            f"{where} is a part of its rows, drawn by their number, and the {opened.dataset.num_shards} files of the kind "
            f"{opened.kind!r} do not say how many they hold; load it without streaming"
        )
    return first_rows(counts)
