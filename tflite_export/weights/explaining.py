"""Says why a file lacks codes, and how to change the model."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.weights import matching
from tflite_export.weights.records import Match, WeightSite
from tflite_export.weights.resemblance import holds_input_gain, resembles
from tflite_export.weights.sites import EMBEDDING_OPERATORS

if TYPE_CHECKING:
    from codeq_keras import QuantizedWeight


class FoldedInputGainError(ValueError):
    """A BatchNormalization was folded into the input channels of kernels.

    `paths` are the kernels' paths; the message has all problems of the model.
    """

    def __init__(self, message: str, paths: Sequence[str]) -> None:
        super().__init__(message)
        self.paths = tuple(paths)


def require_all_found(
    file: Flatbuffer,
    sites: Sequence[WeightSite],
    matches: Sequence[Match | None],
    weights: Mapping[str, "QuantizedWeight"],
) -> None:
    """Raises an error that names each kernel whose codes no site can hold."""
    unmatched = [
        site.slot
        for site, match in zip(sites, matches, strict=True)
        if match is None
    ]
    found = {match.path for match in matches if match is not None}
    problems, folded = [], []
    for path, weight in weights.items():
        changed = [s for s in unmatched if s.codes.size == weight.codes.size]
        if path in found and not any(
            resembles(s, weight.codes) or holds_input_gain(s, weight.codes)
            for s in changed
        ):
            continue
        if path not in found and _is_merged(path, weight, sites, matches):
            continue
        has_gain = any(holds_input_gain(s, weight.codes) for s in changed)
        if has_gain:
            folded.append(path)
        problems.append(_reason(path, weight, has_gain))
    if not problems:
        return
    floats = file.float_operators()
    hint = f"\nIn float32 in the file: {floats}." if floats else ""
    message = (
        "The file must be able to hold the codes of every trained weight. "
        "Received: weights whose codes it cannot hold:\n"
        + "\n".join(f"- {problem}" for problem in problems)
        + hint
    )
    if folded:
        raise FoldedInputGainError(message, folded)
    raise ValueError(message)


def _is_merged(
    path: str,
    weight: "QuantizedWeight",
    sites: Sequence[WeightSite],
    matches: Sequence[Match | None],
) -> bool:
    """Whether the converter kept one copy for this kernel and an equal one."""
    for site, match in zip(sites, matches, strict=True):
        fit = matching.fit_kernel(site.slot, path, weight.codes)
        if fit is not None and match is not None:
            if np.array_equal(fit.codes, match.codes):
                return True
    return False


def _reason(path: str, weight: "QuantizedWeight", has_input_gain: bool) -> str:
    layer = path.rpartition("/")[0] or path
    if path.endswith("embeddings") and np.size(weight.scale) > 1:
        return (
            f"{path!r}: a file holds one scale for a table (the trained scale "
            f"has the shape {np.shape(weight.scale)}). Quantize layer "
            f"{layer!r} with `axis=None`."
        )
    if not has_input_gain:
        return (
            f"{path!r}: no operator holds it. The converter left the layer in "
            "float, replaced it or merged it with another. Leave layer "
            f"{layer!r} out of the quantization with "
            "`overrides={pattern: None}`, or replace it by Conv2D, "
            "DepthwiseConv2D or Dense."
        )
    if np.size(weight.scale) > 1:
        return (
            f"{path!r}: its scale varies along an input axis "
            f"(scale shape {np.shape(weight.scale)}), and a file holds one "
            f"scale for each output channel. Quantize layer {layer!r} with "
            "`axis=None`."
        )
    return (
        f"{path!r}: the BatchNormalization in front of layer {layer!r} was "
        "folded into the input channels of its kernel. Use keras.layers.Dense "
        f"or EinsumDense for {layer!r}, which the export can rewrite, or put "
        f"an activation between the two (BatchNormalization -> ReLU -> "
        f"{layer}), or move the BatchNormalization directly after the linear "
        "layer before it."
    )


def silent_channel_notes(silent_channels: Mapping[str, int]) -> list[str]:
    """Returns a note for each path with channels whose gain is zero."""
    return [
        f"{path!r}: {count} channels have a folded gain of zero (gamma of the "
        "BatchNormalization); the file holds zeros there."
        for path, count in silent_channels.items()
    ]


def untrained_notes(
    sites: Sequence[WeightSite],
    matches: Sequence[Match | None],
    weights: Mapping[str, "QuantizedWeight"],
) -> list[str]:
    """Returns notes on the sites without trained codes."""
    notes = []
    for site, match in zip(sites, matches, strict=True):
        if match is not None and match.path not in weights:
            notes.append(
                f"{match.path!r}: not quantized in training; the file holds "
                "the converter's own int8 rounding of it."
            )
        # An embedding's operator may read a bias or an index table.
        if match is None and site.operator.name not in EMBEDDING_OPERATORS:
            notes.append(
                f"{site.operator.name} reads the constant "
                f"{site.tensor.name!r}, which is no weight of the model; the "
                "converter's rounding is kept."
            )
    return notes


def float_notes(file: Flatbuffer) -> list[str]:
    """Returns notes on the operators that compute in float."""
    return [
        f"{name} computes in float32 (operators: {count})."
        for name, count in file.float_operators().items()
    ]
