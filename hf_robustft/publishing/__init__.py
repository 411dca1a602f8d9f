# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""From measured facts to a checkpoint folder that others can read: model card and metadata."""
