# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The benchmarks of the field by name: what is known of them, and how their copies are read."""
