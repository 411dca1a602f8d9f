# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The machine in words."""

import os
import platform

from hf_robustft.publishing.hardware import describe_hardware


def test_it_names_processor_cores_and_threads_but_not_the_host():
    text = describe_hardware(processes=2)
    assert f"{os.cpu_count()} cores, 2 processes of 1 thread" in text and len(text.split(",")[0]) > 2
    assert platform.node() not in text
