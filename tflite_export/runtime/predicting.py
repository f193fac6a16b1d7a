"""`predict`: floats through a file, and the accuracy of its classes."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from tflite_export.format.decoding import decoded_constants
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.kinds import read_tflite
from tflite_export.format.records import Tensor
from tflite_export.runtime import interpreter
from tflite_export.runtime.interpreter import sample_shape


def predict(
    path: str | os.PathLike[str], inputs: Any
) -> np.ndarray | dict[str, np.ndarray]:
    """Runs a file on samples, floats in and floats out, without Keras.

    Inputs are quantized by the scales in the file, and outputs dequantized. So
    an int8 file takes and returns what its Keras model does. It runs in LiteRT
    on this machine, in a child process with limits. Weights that only
    microcontrollers unpack are unpacked first.

    Args:
        path: A `.tflite` file of any origin, with a batch of 1.
        inputs: Samples as in training: an array of shape `(n, ...)`; for
            several inputs a list of arrays in the order of the file, or a dict
            of arrays by input name. The file runs for each of the `n` samples.
            An integer input without a scale, such as tokens, takes integers.

    Returns:
        A float32 array of shape `(n, ...)`; for several outputs a dict of
        arrays by output name.

    Raises:
        ValueError: If the file cannot be run, or the inputs have other names,
            shapes or types than the file's, NaN or infinity.

    Example:

    >>> import codeq_keras, keras, tempfile, tflite_export
    >>> from pathlib import Path
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> qmodel = codeq_keras.quantize_model(model)
    >>> samples = np.random.default_rng(0).normal(size=(32, 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "model.tflite")
    ...     _ = tflite_export.export(
    ...         qmodel, path, representative_dataset=samples
    ...     )
    ...     predict(path, samples[:5]).shape
    (5, 3)
    """
    data = read_tflite(path)
    outputs = run_floats(data, named_inputs(Flatbuffer(data), inputs))
    return next(iter(outputs.values())) if len(outputs) == 1 else outputs


def run_floats(
    data: bytes, inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns the outputs of a file by name, of checked inputs by name."""
    dense = decoded_constants(Flatbuffer(data)).dense(data)
    return interpreter.predict(dense, list(inputs.values()), list(inputs))


def named_inputs(file: Flatbuffer, inputs: Any) -> dict[str, np.ndarray]:
    """Returns inputs by name, checked; see `predict`."""
    tensors = file.inputs()
    if isinstance(inputs, Mapping):
        if set(inputs) != set(tensors):
            raise ValueError(
                f"`inputs` must have one array for each of {list(tensors)}. "
                f"Received: {list(inputs)}."
            )
        arrays = [inputs[name] for name in tensors]
    elif isinstance(inputs, list | tuple) and len(tensors) > 1:
        arrays = list(inputs)
    else:
        arrays = [inputs]
    if len(arrays) != len(tensors):
        raise ValueError(
            f"`inputs` must have an array for each of {list(tensors)}. "
            f"Received: {len(arrays)}. Give a dict of arrays by name."
        )
    named = {
        name: _checked(np.asarray(array), name, tensor)
        for array, (name, tensor) in zip(arrays, tensors.items(), strict=True)
    }
    lengths = {name: len(array) for name, array in named.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            "`inputs` must hold equally many samples for each input. Received: "
            f"{lengths}."
        )
    return named


def require_labels(
    labels: Any, outputs: Mapping[str, Tensor], num_samples: int
) -> np.ndarray:
    """Returns the classes of samples; others than the output's are an error.

    `outputs` are those of the file. Labels are integers of shape `(n,)`, or
    `(n, ...)` for an output with classes at each place.

    Example:

    >>> none = np.zeros(0)
    >>> head = Tensor(0, "head", "int8", (1, 3), None, none, none, 0, 0)
    >>> require_labels([[0, 1, 0], [0, 0, 1]], {"head": head}, 2)
    Traceback (most recent call last):
    ...
    ValueError: `labels` must be integers of shape (2,), the class of each \
sample. Received shape: (2, 3). They look one-hot: give \
`labels.argmax(axis=-1)`.
    """
    if len(outputs) != 1:
        raise ValueError(
            "`labels` need a file of one output. Received: the outputs "
            f"{list(outputs)}. Use `tflite_export.predict`, and compare."
        )
    (tensor,) = outputs.values()
    *places, num_classes = tensor.shape[1:] or (1,)
    if num_classes < 2:
        raise ValueError(
            "`labels` need an output of several classes. Received: an output "
            f"of shape {tensor.shape}. Use `tflite_export.predict`, and "
            "compare with a threshold of your own."
        )
    classes, shape = np.asarray(labels), (num_samples, *places)
    if classes.shape != shape:
        hint = f"There are {num_samples} samples."
        if classes.shape == (*shape, num_classes):
            hint = "They look one-hot: give `labels.argmax(axis=-1)`."
        elif classes.shape == (*shape, 1):
            hint = "Give `labels[..., 0]`."
        raise ValueError(
            f"`labels` must be integers of shape {shape}, the class of each "
            f"sample. Received shape: {classes.shape}. {hint}"
        )
    if classes.dtype.kind not in "iu":
        raise ValueError(
            "`labels` must be integers, the class of each sample. Received: "
            f"dtype {classes.dtype}. Give `labels.astype(int)` if they are "
            "whole numbers."
        )
    low, high = int(classes.min()), int(classes.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"`labels` must be classes in [0, {num_classes - 1}], the places "
            f"of the output. Received: {low} to {high}. Count them from 0."
        )
    return classes


def accuracy(outputs: Mapping[str, np.ndarray], classes: np.ndarray) -> float:
    """Returns the fraction of largest outputs that are the class.

    Example:

    >>> accuracy({"head": np.array([[0, 1], [1, 0]])}, np.array([1, 1]))
    0.5
    """
    (values,) = outputs.values()
    return float(np.mean(values.argmax(axis=-1) == classes))


def _checked(array: np.ndarray, name: str, tensor: Tensor) -> np.ndarray:
    shape = sample_shape(tensor)
    if array.shape[1:] != shape or not array.ndim or not len(array):
        wanted = ", ".join(["n", *map(str, shape)])
        is_one = array.shape == shape and bool(shape)
        remedy = (
            "Add the batch axis: `sample[None]`."
            if is_one
            else ("Prepare the samples as for `model.fit`.")
        )
        raise ValueError(
            f"Expected samples of shape ({wanted}) for input {name!r}. "
            f"Received shape: {array.shape}. {remedy}"
        )
    is_index = not tensor.scales.size and np.dtype(tensor.dtype).kind in "iu"
    if array.dtype.kind not in ("biu" if is_index else "biuf"):
        wanted = "integers" if is_index else "numbers"
        raise ValueError(
            f"Expected {wanted} for input {name!r}, which is {tensor.dtype} in "
            f"the file. Received: dtype {array.dtype}."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(
            f"Expected finite values for input {name!r}. Received: "
            f"{int((~np.isfinite(array)).sum())} NaN or infinite ones."
        )
    return array
