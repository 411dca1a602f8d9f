# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Data that are read as they come."""
