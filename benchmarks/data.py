"""The data sets of `examples/datasets`, for the scripts in this folder."""

import pathlib
import sys

# Scripts run as `python benchmarks/name.py`, with only their folder on the path.
sys.path.append(str(pathlib.Path(__file__).parents[1] / "examples"))

from datasets import DATASETS, load, load_batches  # noqa: E402

__all__ = ["DATASETS", "load", "load_batches"]
