"""The lab's modules are beside its script, as `python tests/lab/run.py` sees them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "lab"))
