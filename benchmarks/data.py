"""The data sets of `examples/datasets`, for the scripts in this folder."""

import pathlib
import sys

# Scripts run as `python benchmarks/name.py`: only their folder is on the path.
sys.path.append(str(pathlib.Path(__file__).parents[1] / "examples"))

from datasets import DATASETS, load, load_batches

__all__ = ["DATASETS", "load", "load_batches"]
