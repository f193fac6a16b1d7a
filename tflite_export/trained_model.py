"""TrainedModel: all that the export reads from a model, read once."""

import dataclasses
import functools
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from codeq_keras import QuantizedModel, report
from codeq_keras.deployment import (
    ActivationRange,
    QuantizedWeight,
    activation_ranges,
    all_layers,
    find_kernels,
    quantized_weights,
    remove_channels,
    strip_quantizers,
)
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.runtime.interpreter import (
    quantized_inputs,
    random_float_inputs,
)
from tflite_export.samples import (
    MAX_SAMPLES,
    ModelInput,
    model_inputs,
    sample_arrays,
)

NUM_RANDOM_SAMPLES = 64


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """All that the export reads from a model of `codeq_keras` or of TFMOT.

    Attributes:
        reference: The user's model: the file is compared with its outputs.
        plain: The model without quantizers; its kernels are `codes * scale`.
            For a model of TFMOT it is `reference`.
        weights: The trained weights by path.
        kernels: All weights of rank 2 or more by path, in the order of
            `plain`: codes if trained, values otherwise.
        samples: One array of shape `(n, ...)` for each input; None if the user
            gave none.
        ranges: The trained activation ranges by path; empty if there are none.
        fake_quantizes: Whether `plain` rounds its activations itself, as the
            models of TFMOT do.
        removed: Notes on channels that `reference` has and `plain` has not.
    """

    reference: Any
    plain: Any
    weights: Mapping[str, QuantizedWeight]
    kernels: Mapping[str, np.ndarray]
    samples: list[np.ndarray] | None = None
    ranges: Mapping[str, ActivationRange | None] = dataclasses.field(
        default_factory=dict
    )
    fake_quantizes: bool = False
    removed: tuple[str, ...] = ()

    @functools.cached_property
    def inputs(self) -> list[ModelInput]:
        """The name, shape and dtype of each input."""
        return model_inputs(self.plain)

    @property
    def brings_ranges(self) -> bool:
        """Whether the ranges of the activations were trained."""
        return self.fake_quantizes or bool(self.ranges)

    @property
    def origin(self) -> str:
        """The versions and the options that made the model, for its file.

        Options are those of `quantize_model` that are not the default.
        """
        parts = [f"keras {keras.__version__}"]
        # Another backend has none, and exports nothing either.
        if tensorflow := sys.modules.get("tensorflow"):
            parts.append(f"tensorflow {tensorflow.__version__}")
        if isinstance(self.reference, QuantizedModel):
            parts += _options(self.reference)
        return ", ".join(parts)

    def inputs_of(
        self, file: Flatbuffer, limit: int | None = None
    ) -> dict[int, np.ndarray]:
        """Returns the samples in the types of a file's inputs, by index."""
        names = [spec.name for spec in self.inputs]
        samples = [array[:limit] for array in self.samples or ()]
        return quantized_inputs(file, samples, names)

    def open_size_notes(self, file: Flatbuffer) -> list[str]:
        """Returns a note for each input of an open size, which a file fixes."""
        tensors = file.inputs()
        names = [spec.name for spec in self.inputs]
        if set(names) != set(tensors):
            names = list(tensors)
        origin = "of the samples" if self.samples else "chosen without samples"
        return [
            f"Input {name!r} of the open size {spec.shape} has "
            f"{tensors[name].shape[1:]} in the file, the size {origin}. Export "
            "again with samples of another size for another file."
            for name, spec in zip(names, self.inputs, strict=False)
            if None in spec.shape
        ]

    def pattern_notes(self, device: str, skips_pattern: bool) -> list[str]:
        """Returns a note if a pattern was trained that a device ignores."""
        patterns = [w.sparsity_pattern for w in self.weights.values()]
        count = len(patterns) - patterns.count(None)
        if not count or skips_pattern:
            return []
        return [
            f"2:4 zeros in {count} weights make no file faster on "
            f"{device}: only Ethos-U85 skips them."
        ]

    def with_random_samples(self, file: Flatbuffer) -> "TrainedModel":
        """Returns the same model with samples over a file's input ranges."""
        drawn = random_float_inputs(file, NUM_RANDOM_SAMPLES)
        names = [spec.name for spec in self.inputs]
        if set(names) != set(drawn):
            names = list(drawn)
        shapes = [drawn[name].shape[1:] for name in names]
        expected = [spec.shape for spec in self.inputs]
        if not all(map(_fits, shapes, expected)) or len(shapes) != len(
            expected
        ):
            raise ValueError(
                "The inputs of the file must have the shapes of the model's, "
                f"{expected} without the batch. Received: {shapes}. Is it the "
                "file of another model?"
            )
        return self.with_samples(
            [
                drawn[name].astype(spec.dtype)
                for name, spec in zip(names, self.inputs, strict=True)
            ]
        )

    def with_samples(self, samples: list[np.ndarray]) -> "TrainedModel":
        """Returns the same model with other samples."""
        return dataclasses.replace(self, samples=samples)

    def with_dataset(
        self, dataset: Any, *, argument: str, limit: int | None = MAX_SAMPLES
    ) -> "TrainedModel":
        """Returns the same model with the samples of a dataset, if given."""
        if dataset is None:
            return self
        return self.with_samples(
            sample_arrays(dataset, self.inputs, argument=argument, limit=limit)
        )


def read_model(
    model: Any,
    samples: Any,
    *,
    argument: str = "representative_dataset",
    limit: int | None = MAX_SAMPLES,
) -> TrainedModel:
    """Reads a quantized model, of `codeq_keras` or of TFMOT with CoDeQ.

    `samples` has one of the forms that `export` takes, or is None; `argument`
    is its name in errors.
    """
    if _is_tf_keras(model):
        trained = _read_tf_keras(model)
    else:
        small, removed = _without_channels(model)
        trained = read_plain(strip_quantizers(small), quantized_weights(small))
        ranges = activation_ranges(model)
        if not any(held is not None for held in ranges.values()):
            ranges = {}
        trained = dataclasses.replace(
            trained, reference=model, ranges=ranges, removed=removed
        )
    return trained.with_dataset(samples, argument=argument, limit=limit)


def read_plain(
    plain: keras.Model, weights: Mapping[str, QuantizedWeight]
) -> TrainedModel:
    """Reads a model without quantizers, which computes in float32 from now on.

    `weights` are by the paths of `find_kernels`. Variables are told apart by
    identity: names and paths are not unique in nested models.
    """
    _require_stateless(plain)
    _require_finite(plain.weights)
    _compute_in_float32(plain)
    paths = {id(kernel.variable): kernel.path for kernel in find_kernels(plain)}
    taken = set(paths.values())
    named = {}
    for variable in plain.weights:
        path = paths.get(id(variable))
        if path is None:
            path = variable.path
            while path in taken:
                path += "'"
            taken.add(path)
        named[path] = np.asarray(variable)
    return TrainedModel(
        reference=plain,
        plain=plain,
        weights=weights,
        kernels=_kernels(named, weights),
    )


def _options(qmodel: QuantizedModel) -> list[str]:
    """The options of a model that are not the default, as they are written."""
    config = {
        field.name: value
        for field in dataclasses.fields(qmodel.config)
        if (value := getattr(qmodel.config, field.name)) != field.default
    }
    held = {
        **config,
        "activation_bit_width": qmodel.activation_bit_width,
        "channel_multiple": qmodel.channel_multiple,
    }
    return [f"{name}={v!r}" for name, v in held.items() if v is not None]


def _without_channels(qmodel: Any) -> tuple[Any, tuple[str, ...]]:
    """The model without the channels that were removed, and notes on them."""
    if getattr(qmodel, "channel_gates", None) is None:
        return qmodel, ()
    found = report(qmodel)
    lines = [
        f"{each}."
        for each in found.channels
        if each.num_kept < each.num_channels
    ]
    if not lines:
        return qmodel, ()
    lines.append(f"{found.relative_macs:.1%} of the MACs are left.")
    return remove_channels(qmodel), tuple(lines)


def _read_tf_keras(model: Any) -> TrainedModel:
    from codeq_keras import tfmot

    weights = tfmot.quantized_weights(model)
    named = {
        kernel.path: kernel.variable.numpy()
        for kernel in tfmot.QuantizedView(model).kernels
    }
    return TrainedModel(
        reference=model,
        plain=model,
        weights=weights,
        kernels=_kernels(named, weights),
        fake_quantizes=True,
    )


def _kernels(
    named: Mapping[str, np.ndarray], weights: Mapping[str, QuantizedWeight]
) -> dict[str, np.ndarray]:
    """The codes of trained weights, the values of others."""
    return {
        path: weights[path].codes if path in weights else values
        for path, values in named.items()
        if values.ndim >= 2
    }


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        size in (None, actual)
        for size, actual in zip(expected, shape, strict=True)
    )


def _is_tf_keras(model: Any) -> bool:
    """Whether `model` is of `tf_keras`, without importing that."""
    tf_keras = sys.modules.get("tf_keras")
    return tf_keras is not None and isinstance(model, tf_keras.Model)


def _require_stateless(model: keras.Model) -> None:
    for layer in all_layers(model):
        if getattr(layer, "stateful", False):
            raise ValueError(
                "Expected layers without a state between calls: a file holds "
                f"none. Received: {layer.name!r} ({type(layer).__name__}, "
                "stateful=True). Make the state an input and an output of the "
                f"model: `{type(layer).__name__}(..., return_state=True)"
                "(frame, initial_state=state)`."
            )


def _compute_in_float32(model: keras.Model) -> None:
    """Ends mixed precision, of which the converter makes casts it cannot mix.

    The weights are float32 already.
    """
    for layer in all_layers(model):
        if layer.dtype_policy.name in ("mixed_float16", "mixed_bfloat16"):
            layer.dtype_policy = "float32"


def _require_finite(variables: Iterable[keras.Variable]) -> None:
    for variable in variables:
        values = np.asarray(variable)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            layer = variable.path.rpartition("/")[0]
            raise ValueError(
                "All weights must be finite. Received: NaN or infinity in "
                f"{variable.path!r}. Training diverged in layer {layer!r}: "
                "lower the learning rate or load an earlier checkpoint."
            )
