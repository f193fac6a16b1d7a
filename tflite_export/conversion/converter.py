"""Stripped Keras model -> full-integer int8 flatbuffer, or a float32 one.

The only file that imports TensorFlow. The converter runs in a child process:
its log stays out of the terminal, and where it crashes (rolled recurrent
layers do that) the caller gets an error instead of dying with it. The child
runs this file as a script, so nothing of the package is imported at the top.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras

    from tflite_export.samples import ModelInput

_SAVED_MODEL = "saved_model"
_NAMES = "names.json"
_RESULT = "model.tflite"
_NUM_ERROR_LINES = 8
_MAX_LINE = 240
_CAUSE = re.compile(r"error: (?!loc\()|Error: |^TF Select ops|^Custom ops")


def convert(
    model: "keras.Model",
    inputs: "list[ModelInput]",
    samples: list[np.ndarray],
) -> bytes:
    """Converts a model to a `.tflite` file with int8 weights and activations.

    Inputs and outputs are int8 as well (integer inputs stay int32), and the
    batch is fixed to 1. The weights are rounded by the converter.

    Args:
        model: A Keras model without quantizers, on the TensorFlow backend.
        inputs: Its inputs; their names become the names in the file.
        samples: One array of shape `(n, ...)` for each input; the ranges of
            the activations are measured on them.

    Returns:
        The bytes of the file.

    Raises:
        RuntimeError: If the converter fails or crashes.
    """
    predict = _inference(model)
    return _convert_function(predict, inputs, _variables(model), samples)


def convert_float(
    model: "keras.Model",
    inputs: "list[ModelInput]",
    samples: list[np.ndarray],
) -> bytes:
    """Converts a model to a `.tflite` file that computes in float32.

    Args:
        model: A Keras model without quantizers, on the TensorFlow backend.
        inputs: Its inputs; their names become the names in the file.
        samples: One array of shape `(n, ...)` for each input; only the shapes
            matter.

    Returns:
        The bytes of the file, with a batch of 1.

    Raises:
        RuntimeError: If the converter fails or crashes.
    """
    with tempfile.TemporaryDirectory() as folder:
        _save_function(
            _inference(model), inputs, _variables(model), samples, Path(folder)
        )
        return _convert_in_child(folder, "float32")


def convert_qat(model: Any, inputs: "list[ModelInput]") -> bytes:
    """Converts a model that fake-quantizes itself, with the ranges it trained.

    Args:
        model: A `tf_keras` model from TensorFlow Model Optimization.
        inputs: Its inputs; a size that is left open becomes 1.

    Returns:
        The bytes of the file, with a batch of 1 and int8 inputs and outputs.

    Raises:
        RuntimeError: If the converter fails or crashes.
    """
    return _convert_function(_inference(model), inputs, model.weights, None)


def convert_ranged(
    predict: Callable[..., Any],
    inputs: "list[ModelInput]",
    weights: Sequence[Any],
    samples: list[np.ndarray] | None = None,
) -> bytes:
    """Converts a function that fake-quantizes its activations.

    Args:
        predict: Takes one tensor per input; returns a structure of tensors.
            Its Python code is traced as it is.
        inputs: Its inputs; without samples, a size that is left open becomes 1.
        weights: The `tf.Variable`s it reads.
        samples: None, which leaves activations without a range in float; or
            one array of shape `(n, ...)` for each input, on which the ranges
            that the function does not bring are measured.

    Returns:
        The bytes of the file, with a batch of 1 and int8 inputs and outputs.

    Raises:
        RuntimeError: If the converter fails or crashes.
    """
    import tensorflow as tf

    traced = tf.autograph.experimental.do_not_convert(predict)
    return _convert_function(traced, inputs, weights, samples)


def _convert_function(
    predict: Callable[..., Any],
    inputs: "list[ModelInput]",
    weights: Sequence[Any],
    samples: list[np.ndarray] | None,
) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        _save_function(predict, inputs, weights, samples, Path(folder))
        if samples is not None:
            _save_samples(inputs, samples, Path(folder))
        return _convert_in_child(folder, "int8")


def _inference(model: Any) -> Callable[..., Any]:
    """The model as a function of one tensor per input."""
    from tflite_export.samples import pack_inputs

    def predict(*values: Any) -> Any:
        return model(pack_inputs(model, values), training=False)

    return predict


def _variables(model: "keras.Model") -> list[Any]:
    """TensorFlow's variables: those of Keras only wrap them."""
    return [variable.value for variable in model.variables]


def _save_function(
    predict: Callable[..., Any],
    inputs: "list[ModelInput]",
    weights: Sequence[Any],
    samples: list[np.ndarray] | None,
    folder: Path,
) -> None:
    """Saves a function with the shapes of the samples and a batch of 1.

    `Model.export` would trace the model twice, the second time with the sizes
    that it leaves open, for which recurrent layers cannot be unrolled.
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

    @tf.function(input_signature=specs)
    def outputs_by_name(*values: Any) -> dict[str, Any]:
        outputs = predict(*values)
        if isinstance(outputs, dict):
            return outputs
        flat = tf.nest.flatten(outputs)
        return {f"output_{index}": value for index, value in enumerate(flat)}

    module = tf.Module()
    module.weights = list(weights)
    tf.saved_model.save(
        module, str(folder / _SAVED_MODEL), signatures=outputs_by_name
    )


def _convert_in_child(folder: str, dtype: str) -> bytes:
    # `-P`: without it this folder would be searched first, and the standard
    # library would find our `inspect.py`.
    child = subprocess.run(
        [sys.executable, "-P", __file__, folder, dtype],
        capture_output=True,
        text=True,
        errors="replace",
        # This process may hold all memory of the GPU.
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        check=False,
    )
    result = Path(folder, _RESULT)
    if child.returncode != 0 or not result.exists():
        raise RuntimeError(_failure(child.returncode, child.stderr))
    return result.read_bytes()


def _save_samples(
    inputs: "list[ModelInput]", samples: list[np.ndarray], folder: Path
) -> None:
    names = [spec.name for spec in inputs]
    (folder / _NAMES).write_text(json.dumps(names))
    for index, array in enumerate(samples):
        np.save(folder / f"{index}.npy", array)


def _failure(returncode: int, log: str) -> str:
    """Explains what became of the child process."""
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


def _representative_dataset(
    folder: Path,
) -> Callable[[], Iterator[dict[str, Any]]]:
    names = json.loads((folder / _NAMES).read_text())
    samples = [np.load(folder / f"{i}.npy") for i in range(len(names))]

    def dataset() -> Iterator[dict[str, Any]]:
        for row in zip(*samples, strict=True):
            yield {
                name: value[None]
                for name, value in zip(names, row, strict=True)
            }

    return dataset


def _convert_saved_model(folder: Path, dtype: str) -> None:
    """Runs in the child process."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(folder / _SAVED_MODEL)
    )
    if dtype == "int8":
        _ask_for_int8(converter, folder)
    (folder / _RESULT).write_bytes(converter.convert())


def _ask_for_int8(converter: Any, folder: Path) -> None:
    import tensorflow as tf

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    # A model that fake-quantizes itself brings its ranges, and no samples.
    if (folder / _NAMES).exists():
        converter.representative_dataset = _representative_dataset(folder)
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS_INT8
        ]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8


if __name__ == "__main__":
    _convert_saved_model(Path(sys.argv[1]), sys.argv[2])
