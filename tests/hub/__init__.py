# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Tests against a Hub of our own on the loopback interface. A package, so that its conftest does not hide the other."""
