"""TensorFlow's converter: from a graph to the bytes of a `.tflite` file.

It runs in a child process: its log stays out of the terminal, and a crash, such
as that of rolled recurrent layers, becomes an error here.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

from tflite_export.conversion.converter_child import (
    NAMES,
    RESULT,
    SAVED_MODEL,
)
from tflite_export.conversion.graphs import Graph
from tflite_export.samples import ModelInput

_SCRIPT = Path(__file__).with_name("converter_child.py")
_NUM_ERROR_LINES = 8
_MAX_LINE = 240
_CAUSE = re.compile(r"error: (?!loc\()|Error: |^TF Select ops|^Custom ops")


def convert(
    graph: Graph, inputs: list[ModelInput], samples: list[np.ndarray] | None
) -> bytes:
    """Converts a graph to a file with int8 weights and activations.

    Its inputs and outputs are int8 (integer inputs stay int32), its batch is 1.
    Ranges that the graph lacks are measured on the samples. Without samples
    such activations stay in float, and an open size becomes 1. A converter that
    fails or crashes is a RuntimeError.
    """
    with tempfile.TemporaryDirectory() as folder:
        _save_function(graph, inputs, samples, Path(folder))
        if samples is not None:
            _save_samples(inputs, samples, Path(folder))
        return _convert_in_child(folder, "int8")


def convert_float(
    graph: Graph, inputs: list[ModelInput], samples: list[np.ndarray]
) -> bytes:
    """Converts a graph to a file that computes in float32, with a batch of 1.

    Only the shapes of the samples matter.
    """
    with tempfile.TemporaryDirectory() as folder:
        _save_function(graph, inputs, samples, Path(folder))
        return _convert_in_child(folder, "float32")


def _save_function(
    graph: Graph,
    inputs: list[ModelInput],
    samples: list[np.ndarray] | None,
    folder: Path,
) -> None:
    """Saves a function with the shapes of the samples and a batch of 1.

    `Model.export` would trace the model again with its open sizes. Recurrent
    layers cannot be unrolled for those.
    """
    import tensorflow as tf

    if samples is None:
        shapes = [tuple(n or 1 for n in spec.shape) for spec in inputs]
    else:
        shapes = [array.shape[1:] for array in samples]
    specs = [
        tf.TensorSpec((1, *shape), spec.dtype, spec.name)
        for spec, shape in zip(inputs, shapes, strict=True)
    ]

    module = tf.Module()
    # Variables of Keras only wrap those of TensorFlow.
    module.weights = [
        v.value if isinstance(v, keras.Variable) else v for v in graph.variables
    ]
    signature = tf.function(graph.function, input_signature=specs)
    tf.saved_model.save(module, str(folder / SAVED_MODEL), signatures=signature)


def _convert_in_child(folder: str, dtype: str) -> bytes:
    child = subprocess.run(
        [sys.executable, str(_SCRIPT), folder, dtype],
        capture_output=True,
        text=True,
        errors="replace",
        # This process may hold all memory of the GPU.
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        check=False,
    )
    result = Path(folder, RESULT)
    if child.returncode != 0 or not result.exists():
        raise RuntimeError(_failure(child.returncode, child.stderr))
    return result.read_bytes()


def _save_samples(
    inputs: list[ModelInput], samples: list[np.ndarray], folder: Path
) -> None:
    names = [spec.name for spec in inputs]
    (folder / NAMES).write_text(json.dumps(names))
    for index, array in enumerate(samples):
        np.save(folder / f"{index}.npy", array)


def _failure(returncode: int, log: str) -> str:
    """Explains how the child process failed."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    # The log ends in the whole graph as text; the cause is far above.
    relevant = [line for line in lines if _CAUSE.search(line)] or lines
    unique = list(dict.fromkeys(line[:_MAX_LINE] for line in relevant))
    tail = "\n".join(unique[-_NUM_ERROR_LINES:])
    if returncode < 0:
        return (
            "Expected the TFLite converter to finish. Received: a crash by "
            f"signal {-returncode}. Recurrent layers are the usual cause: "
            "build them with `unroll=True`. From its log:\n"
            f"{tail}"
        )
    return (
        "Expected the TFLite converter to finish. Received: an error. An "
        "operation without an int8 kernel is the usual cause: replace the "
        f"layer it names. From its log:\n{tail}"
    )
