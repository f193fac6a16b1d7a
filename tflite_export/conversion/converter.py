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
_NO_KERNEL = re.compile(r"TF Select ops|Custom ops|legalize|op operand")
_CONFLICT = "same scale constraint"
_LOOPS = ("StatelessWhile", "While")
# TensorFlow's lines at its start, and those on GPUs.
_NOISE = re.compile(
    r"absl::InitializeLog|cuda|TensorRT|oneDNN|cpu_feature_guard|XNNPACK|"
    r"^[IW]\d{4} |is deprecated|TF 2\.20|migration guide|for details|"
    r"warnings\.warn",
    re.IGNORECASE,
)


class RangeConflictError(RuntimeError):
    """A measured range contradicts the trained one of the same values."""


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
        has_loop = _save_function(graph, inputs, samples, Path(folder))
        if samples is not None:
            _save_samples(inputs, samples, Path(folder))
        try:
            return _convert_in_child(folder, "int8", has_loop=has_loop)
        except RangeConflictError:
            if samples is None or graph.lacks_ranges:
                raise
        # The converter measures a number that is cast from an integer all the
        # same, and then cannot move it.
        (Path(folder) / NAMES).unlink()
        return _convert_in_child(folder, "int8", has_loop=has_loop)


def convert_float(
    graph: Graph, inputs: list[ModelInput], samples: list[np.ndarray]
) -> bytes:
    """Converts a graph to a file that computes in float32, with a batch of 1.

    Only the shapes of the samples matter.
    """
    with tempfile.TemporaryDirectory() as folder:
        has_loop = _save_function(graph, inputs, samples, Path(folder))
        return _convert_in_child(folder, "float32", has_loop=has_loop)


def _save_function(
    graph: Graph,
    inputs: list[ModelInput],
    samples: list[np.ndarray] | None,
    folder: Path,
) -> bool:
    """Saves a function with the shapes of the samples and a batch of 1.

    Returns whether it has a loop, as rolled recurrent layers have.
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
    definition = signature.get_concrete_function().graph.as_graph_def()
    functions = definition.library.function
    nodes = [*definition.node, *(n for f in functions for n in f.node_def)]
    return any(node.op in _LOOPS for node in nodes)


def _convert_in_child(folder: str, dtype: str, *, has_loop: bool) -> bytes:
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
        is_conflict = _CONFLICT in child.stderr
        error = RangeConflictError if is_conflict else RuntimeError
        raise error(_failure(child.returncode, child.stderr, has_loop=has_loop))
    return result.read_bytes()


def _save_samples(
    inputs: list[ModelInput], samples: list[np.ndarray], folder: Path
) -> None:
    names = [spec.name for spec in inputs]
    (folder / NAMES).write_text(json.dumps(names))
    for index, array in enumerate(samples):
        np.save(folder / f"{index}.npy", array)


def _failure(returncode: int, log: str, *, has_loop: bool) -> str:
    """Explains how the child process failed."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    lines = [line for line in lines if not _NOISE.search(line)]
    # The log ends in the whole graph as text; the cause is far above.
    relevant = [line for line in lines if _CAUSE.search(line)] or lines
    unique = list(dict.fromkeys(line[:_MAX_LINE] for line in relevant))
    received = f"a crash by signal {-returncode}"
    if returncode >= 0:
        received = "an error"
    remedy = "Please report the model."
    if has_loop:
        remedy = (
            "The model has a loop, as recurrent layers have: build them with "
            "`unroll=True`."
        )
    elif _CONFLICT in log:
        remedy = (
            "It cannot join numbers that are cast from an integer input, nor "
            "move them beside a layer that has ranges to measure: make it a "
            'float input, `keras.Input(..., dtype="float32")`.'
        )
    elif any(_NO_KERNEL.search(line) for line in unique):
        remedy = (
            "It has no int8 operator for an operation: replace the layer that "
            "its log names."
        )
    tail = "\n".join(["", *unique[-_NUM_ERROR_LINES:]]) if unique else ""
    return (
        "Expected the TFLite converter to finish. Received: "
        f"{received}. {remedy}{' From its log:' if tail else ''}{tail}"
    )
