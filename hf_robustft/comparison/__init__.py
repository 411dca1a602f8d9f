# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Which method for these data: finished runs side by side, and what can be concluded from them."""
