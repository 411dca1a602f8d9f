# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Item d: the memory of a step of 512 pairs by the size of the chunks of the gradient cache, against one of 32."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor

from table import Row

GB = 1e9


def in_a_process(function, *arguments):
    """The result of a function in a process of its own, whose memory nothing else has touched."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def step_memory(model: str, batch: int, chunk: int, threads: int) -> dict[str, float]:
    """
    What one forward and backward pass of CaRot with a teacher needs beyond weights, gradients, teacher and batch.

    Args:
        model (`str`): Size of the model.
        batch (`int`): Pairs in the step.
        chunk (`int`): `contrastive_chunk_size`; 0 encodes the whole batch at once.
        threads (`int`): Threads of torch.

    Returns:
        `dict`: `own` (bytes beyond those before the step), `peak` (largest resident set), `seconds`.
    """
    import psutil
    import torch
    from turns import peak_memory
    from workload import Pairs, collate, random_model

    from hf_robustft import CaRotTrainer, RobustTrainingArguments

    torch.set_num_threads(threads)
    clip = random_model(model)
    pairs = Pairs(clip.config, batch, batch)
    inputs = collate([pairs[i] for i in range(batch)])
    del pairs
    with tempfile.TemporaryDirectory() as folder:
        args = RobustTrainingArguments(
            output_dir=folder,
            use_cpu=True,
            per_device_train_batch_size=batch,
            contrastive_chunk_size=chunk,
            ema_update_every=1,
            report_to="none",
            disable_tqdm=True,
        )
        trainer = CaRotTrainer(clip, args, train_dataset=[], data_collator=collate)
        trainer.prepare_training(100)
        # Past the first step, in which the teacher is still the student.
        trainer.optimizer_steps, trainer.current_gradient_accumulation_steps = 1, 1
        for parameter in trainer.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        before = psutil.Process().memory_info().rss
        start = time.perf_counter()
        trainer.training_step(trainer.model, inputs)
        seconds = time.perf_counter() - start
    return {"own": peak_memory() - before, "peak": peak_memory(), "seconds": seconds}


def measure(options, progress) -> list[Row]:
    """A row for each chunk size, and one for the whole batch, scaled up from the small one."""
    small, large = options.batch, 16 * options.batch
    progress(f"memory: batch {small}")
    plain = in_a_process(step_memory, options.model, small, 0, options.threads)
    rows = []
    for chunk in (small, 2 * small, 4 * small):
        progress(f"memory: batch {large} in chunks of {chunk}")
        cached = in_a_process(step_memory, options.model, large, chunk, options.threads)
        rows.append(
            Row(
                f"d{chunk}",
                f"memory of batch {large} in chunks of {chunk}, over batch {small}",
                cached["own"] / GB,
                plain["own"] / GB,
                "GB",
                cached["own"] / plain["own"],
                1.2 if chunk == small else None,
                details={"cached": cached, "plain": plain},
            )
        )
    whole = plain["own"] * large / small
    note = f"not run: {large // small} times batch {small}"
    rows.append(
        Row(
            f"d{large}",
            f"memory of batch {large} at once, over batch {small}",
            whole / GB,
            plain["own"] / GB,
            "GB",
            note=note,
        )
    )
    return rows
