# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Accuracy, calibration and the feature spectrum of any dual encoder, with or without a Trainer."""
