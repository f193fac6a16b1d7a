"""Writes the trained integers into a converted file, and reads them back.

Decides which tensors change and to what; finding the kernels is the business
of `matching.py`, the bytes are the business of `flatbuffer.py`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from tflite_export.format.edits import requantize_output
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.records import Constant, InputSite, Tensor
from tflite_export.weights import matching
from tflite_export.weights.matching import Match, Slot
from tflite_export.weights.scales import SCALE_ROUNDING, new_scales
from tflite_export.weights.sites import (
    EMBEDDING_OPERATORS,
    WeightSite,
    embedding_sites,
    float_operators,
    weight_sites,
)

MAX_BIAS = 2**31 - 1
# Above this a slot is a kernel that was changed, below it another constant.
RESEMBLANCE = 0.9


class TrainedWeight(Protocol):
    """What is read of a `codeq_keras.QuantizedWeight`."""

    @property
    def codes(self) -> np.ndarray:
        """The integers, int8 in [-127, 127], in the kernel's shape."""

    @property
    def scale(self) -> Any:
        """Float > 0, broadcastable to the codes; weight = code * scale."""

    @property
    def bit_width(self) -> int:
        """Bits of a code, sign included."""


class FoldedInputGainError(ValueError):
    """A BatchNormalization was folded into the input channels of kernels.

    Args:
        message: For the user, with all problems of the model.
        paths: The kernels for which it is the problem.
    """

    def __init__(self, message: str, paths: Sequence[str]) -> None:
        super().__init__(message)
        self.paths = tuple(paths)


class WrittenWeights(NamedTuple):
    """What `write_exact_weights` did beyond the rule.

    `silent_channels` counts, by path, the channels that a folded gain of zero
    removed: their codes are not in the file, and their weights are zero.
    """

    notes: list[str]
    silent_channels: dict[str, int]


def write_exact_weights(
    flatbuffer: Flatbuffer,
    trained: Mapping[str, TrainedWeight],
    kernels: Mapping[str, np.ndarray],
) -> WrittenWeights:
    """Replaces the converter's integers by the trained ones, in place.

    Scales and biases are adapted, so that the file computes what it did, only
    with the trained codes.

    Args:
        flatbuffer: The converted file; it is changed.
        trained: The trained weights by path.
        kernels: All weights of the model by path, in its order: the codes of
            the trained ones, the values of the others, which stay as they are.

    Returns:
        The notes for the user and the channels without a gain.

    Raises:
        ValueError: If a trained weight is not in the file, or is there in a
            form that its codes cannot express.
    """
    sites = [*weight_sites(flatbuffer), *embedding_sites(flatbuffer)]
    matches = matching.match_slots([s.slot for s in sites], kernels)
    require_all_found(flatbuffer, sites, matches, trained)
    writes: dict[InputSite, Constant] = {}
    notes = []
    silent: Counter[str] = Counter()
    for site, match in zip(sites, matches, strict=True):
        if match is None or match.path not in trained:
            notes += _untrained_notes(site, match)
            continue
        codes = _new_codes(site, match)
        scales, estimated = new_scales(site, codes, trained[match.path].scale)
        constants = [Constant(codes, scales, _axis(site))]
        places = [site.site]
        if site.bias is not None:
            bias_site, bias = site.bias
            places.append(bias_site)
            constants.append(_new_bias(bias, site, scales, match.path))
        writes |= zip(places, _joined(constants, site), strict=True)
        if estimated:
            notes.append(
                f"{match.path!r}: the converter limited the scale of "
                f"{estimated} channels, so their scale is an estimate from "
                "its integers; the codes are exact."
            )
        silent[match.path] = max(silent[match.path], match.num_silent_rows)
    flatbuffer.replace_inputs(writes)
    _requantize_lookups(flatbuffer, writes)
    silent_channels = {path: n for path, n in silent.items() if n}
    notes.extend(silent_channel_notes(silent_channels))
    return WrittenWeights(list(dict.fromkeys(notes)), silent_channels)


def silent_channel_notes(silent_channels: Mapping[str, int]) -> list[str]:
    """Returns a note for each path with channels that a gain of zero removed.

    Args:
        silent_channels: The number of channels by path.
    """
    return [
        f"{path!r}: {count} channels have a folded gain of zero (gamma of the "
        "BatchNormalization); the file holds zeros there."
        for path, count in silent_channels.items()
    ]


def unequal_weights(
    flatbuffer: Flatbuffer,
    trained: Mapping[str, TrainedWeight],
    kernels: Mapping[str, np.ndarray],
    silent_channels: Mapping[str, int],
) -> list[str]:
    """Returns the paths of the trained weights whose codes the file lacks.

    Args:
        flatbuffer: The file to be judged.
        trained: The trained weights by path.
        kernels: All weights of the model, as in `write_exact_weights`.
        silent_channels: By path, how many channels may hold zeros instead.

    Returns:
        Paths in the order of `trained`; empty if every code is in the file,
        and no operator reads a changed copy of them.
    """
    sites = [*weight_sites(flatbuffer), *embedding_sites(flatbuffer)]
    whole = [site.slot for site in sites]
    found = matching.match_windows(whole, kernels)
    matches = [match for _, match in found]
    slots = [
        matching.windowed(slot, window)
        for slot, (window, _) in zip(whole, found, strict=True)
    ]
    equal: set[str] = set()
    unequal: set[str] = set()
    for slot, match in zip(slots, matches, strict=True):
        if match is None:
            unequal.update(p for p in trained if _resembles(slot, kernels[p]))
        elif match.path in trained:
            allowed = silent_channels.get(match.path, 0)
            is_equal = _is_equal(slot, match, allowed)
            (equal if is_equal else unequal).add(match.path)
    for path in trained.keys() - equal - unequal:
        fits = [matching.fit_kernel(s, path, kernels[path]) for s in slots]
        allowed = silent_channels.get(path, 0)
        if not any(
            fit is not None and _is_equal(slot, fit, allowed)
            for slot, fit in zip(slots, fits, strict=True)
        ):
            unequal.add(path)
    return [path for path in trained if path in unequal]


def _is_equal(slot: Slot, match: Match, allowed_silent: int) -> bool:
    if match.num_silent_rows > allowed_silent:
        return False
    held = matching.as_rows(slot.codes, slot.axis)
    codes = matching.as_rows(match.codes, slot.axis)
    is_silent = np.isnan(match.gains)
    return bool(np.array_equal(held[~is_silent], codes[~is_silent]))


def _resembles(slot: Slot, kernel: np.ndarray) -> bool:
    # A channel of one weight resembles every other, so it says nothing.
    if matching.as_rows(slot.codes, slot.axis).shape[1] == 1:
        return False
    return matching.resemblance(slot, kernel) >= RESEMBLANCE


def _axis(site: WeightSite) -> int:
    return site.tensor.axis if site.slot.axis is None else site.slot.axis


def _new_codes(site: WeightSite, match: Match) -> np.ndarray:
    rows = matching.as_rows(match.codes, site.slot.axis)
    rows = np.where(np.isnan(match.gains)[:, None], 0, rows).astype(np.int8)
    return matching.from_rows(rows, site.slot.axis, site.slot.codes.shape)


def _requantize_lookups(
    flatbuffer: Flatbuffer, writes: Mapping[InputSite, Constant]
) -> None:
    """Lets what a GATHER looks up reach its readers in their own scale.

    The operator copies integers, so that its output has the table's scale.
    """
    operators = {(o.subgraph, o.index): o for o in flatbuffer.operators}
    # From the last, since each one moves those behind it.
    for site in sorted(writes, reverse=True):
        operator = operators[site.subgraph, site.operator]
        if operator.name == "GATHER":
            requantize_output(flatbuffer, operator, writes[site].scales)


def _joined(constants: list[Constant], site: WeightSite) -> list[Constant]:
    """One scale where all are equal: fewer bytes, and older runtimes know it.

    Convolutions are stored per channel by convention.
    """
    if site.operator.name != "FULLY_CONNECTED" or any(
        np.ptp(constant.scales) > SCALE_ROUNDING * constant.scales.max()
        for constant in constants
    ):
        return constants
    return [c._replace(scales=c.scales[:1]) for c in constants]


def _new_bias(
    bias: Tensor, site: WeightSite, scales: np.ndarray, path: str
) -> Constant:
    """The bias in units of the new scales; its real value stays."""
    ratio = scales.astype(np.float64) / site.tensor.scales
    values = np.round(bias.data / ratio)
    if np.abs(values).max(initial=0) > MAX_BIAS:
        raise ValueError(
            f"The bias of {path!r} must stay below 2**31 in units of the "
            "weights' scale. "
            f"Received: {np.abs(values).max():.3g} times that scale. Its "
            "weights are far too small for its bias: train the layer longer, "
            "or leave it out of the quantization with "
            "`overrides={pattern: None}`."
        )
    return Constant(
        values.astype(np.int32), (bias.scales * ratio).astype(np.float32), 0
    )


def _untrained_notes(site: WeightSite, match: Match | None) -> list[str]:
    if match is not None:
        return [
            f"{match.path!r} was not quantized in training: the file holds the "
            "converter's own int8 rounding of it."
        ]
    if site.operator.name in EMBEDDING_OPERATORS:
        return []  # A bias or an index table, as in any model.
    return [
        f"{site.operator.name} reads the constant {site.tensor.name!r}, which "
        "is no weight of the model; the converter's rounding is kept."
    ]


def require_all_found(
    flatbuffer: Flatbuffer,
    sites: Sequence[WeightSite],
    matches: Sequence[Match | None],
    trained: Mapping[str, TrainedWeight],
) -> None:
    """Raises an error that names every kernel the codes cannot replace.

    Args:
        flatbuffer: The converted file.
        sites: The places of it that may hold kernels.
        matches: What each of them holds.
        trained: The trained weights by path.
    """
    unmatched = [
        site.slot
        for site, match in zip(sites, matches, strict=True)
        if match is None
    ]
    found = {match.path for match in matches if match is not None}
    problems, folded = [], []
    for path, weight in trained.items():
        changed = [s for s in unmatched if s.codes.size == weight.codes.size]
        if path in found and not any(
            _resembles(s, weight.codes)
            or matching.holds_input_gain(s, weight.codes)
            for s in changed
        ):
            continue
        if path not in found and _is_merged(path, weight, sites, matches):
            continue
        has_gain = any(
            matching.holds_input_gain(s, weight.codes) for s in changed
        )
        if has_gain:
            folded.append(path)
        problems.append(_reason(path, weight, has_gain))
    if not problems:
        return
    floats = float_operators(flatbuffer)
    hint = f"\nIn float32 in the file: {floats}." if floats else ""
    message = (
        "Every trained weight must be in the file as its trained integers. "
        "Received a model for which this is impossible:\n"
        + "\n".join(f"- {problem}" for problem in problems)
        + hint
    )
    if folded:
        raise FoldedInputGainError(message, folded)
    raise ValueError(message)


def _is_merged(
    path: str,
    weight: TrainedWeight,
    sites: Sequence[WeightSite],
    matches: Sequence[Match | None],
) -> bool:
    """Whether the converter kept one copy of this kernel and an equal one."""
    for site, match in zip(sites, matches, strict=True):
        fit = matching.fit_kernel(site.slot, path, weight.codes)
        if fit is not None and match is not None:
            if np.array_equal(fit.codes, match.codes):
                return True
    return False


def _reason(path: str, weight: TrainedWeight, has_input_gain: bool) -> str:
    layer = path.rpartition("/")[0] or path
    if path.endswith("embeddings") and np.size(weight.scale) > 1:
        return (
            f"{path!r}: a table has one scale in a file (its scale has the "
            f"shape {np.shape(weight.scale)}). Quantize layer {layer!r} with "
            "`axis=None`."
        )
    if not has_input_gain:
        return (
            f"{path!r}: no operator holds it. The converter left the layer in "
            "float, replaced it or merged it with something else. Leave layer "
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
        f"{layer}), or move the BatchNormalization directly behind the linear "
        "layer before it."
    )
