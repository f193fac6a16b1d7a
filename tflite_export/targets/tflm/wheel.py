"""Calls the tflite-micro wheel in a child process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tflite_export.extras import require_extra
from tflite_export.runtime.sandbox import run_script

_SCRIPT = Path(__file__).with_name("child.py")


def ask_wheel(
    data: bytes, columns: Mapping[str, np.ndarray], request: dict[str, Any]
) -> tuple[dict[str, np.ndarray], str]:
    """Returns the outputs of the requested run, and its log."""
    require_extra(
        "tflite_micro", extra="targets", needed_for="The target 'tflm'"
    )
    return run_script(_SCRIPT, data, columns, request)
