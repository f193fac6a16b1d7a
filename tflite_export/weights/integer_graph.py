"""Writes the trained codes into a file of integers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.records import (
    Constant,
    InputSite,
    Operator,
    Tensor,
)
from tflite_export.weights import explaining, matching
from tflite_export.weights.records import (
    Match,
    WeightSite,
    WrittenWeights,
)
from tflite_export.weights.scales import SCALE_ROUNDING, new_scales
from tflite_export.weights.sites import embedding_sites, weight_sites

if TYPE_CHECKING:
    from codeq_keras import QuantizedWeight

MAX_BIAS = 2**31 - 1


def write_codes(
    file: Flatbuffer,
    weights: Mapping[str, "QuantizedWeight"],
    kernels: Mapping[str, np.ndarray],
) -> WrittenWeights:
    """Replaces the converter's integers by the trained codes, in place.

    New scales and biases keep the real values. `kernels` are those of
    `TrainedModel`; kernels that were not trained keep the converter's integers.
    Codes that the file cannot hold are an error.
    """
    sites = [*weight_sites(file), *embedding_sites(file, weights)]
    matches = matching.match_slots([s.slot for s in sites], kernels)
    explaining.require_all_found(file, sites, matches, weights)
    writes: dict[InputSite, Constant] = {}
    notes = []
    silent: Counter[str] = Counter()
    for site, match in zip(sites, matches, strict=True):
        if match is None or match.path not in weights:
            continue
        codes = matching.written_codes(match, site.slot.axis)
        scales, estimated = new_scales(site, codes, weights[match.path].scale)
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
    file.replace_inputs(writes)
    _name_weights(file, sites, matches)
    _requantize_lookups(file, writes)
    silent_channels = {path: n for path, n in silent.items() if n}
    notes += explaining.untrained_notes(sites, matches, weights)
    notes += explaining.silent_channel_notes(silent_channels)
    notes += explaining.float_notes(file)
    return WrittenWeights(list(dict.fromkeys(notes)), silent_channels)


def _name_weights(
    file: Flatbuffer,
    sites: Sequence[WeightSite],
    matches: Sequence[Match | None],
) -> None:
    """Gives weights and biases the paths of the model as names."""
    operators = {(o.subgraph, o.index): o for o in file.operators}
    for site, match in zip(sites, matches, strict=True):
        if match is None:
            continue
        subgraph, number, position = site.site
        inputs = operators[subgraph, number].inputs
        # Packed weights have another name behind the operator that unpacks.
        if file.tensor(subgraph, inputs[position]).data is not None:
            file.rename(subgraph, inputs[position], match.path)
        if site.bias is not None:
            layer = match.path.rpartition("/")[0] or match.path
            index = inputs[site.bias[0].position]
            file.rename(subgraph, index, f"{layer}/bias")


def _axis(site: WeightSite) -> int:
    return site.tensor.axis if site.slot.axis is None else site.slot.axis


def _requantize_lookups(
    file: Flatbuffer, writes: Mapping[InputSite, Constant]
) -> None:
    """Gives the output of each GATHER its table's scale: it copies integers."""
    operators = {(o.subgraph, o.index): o for o in file.operators}
    # The last one first, since each moves the operators after it.
    for site in sorted(writes, reverse=True):
        operator = operators[site.subgraph, site.operator]
        if operator.name == "GATHER":
            requantize_output(file, operator, writes[site].scales)


def requantize_output(
    file: Flatbuffer, operator: Operator, scales: np.ndarray
) -> None:
    """Gives the one output of an operator a scale; a QUANTIZE restores the old.

    The scale has the shape `(1,)`; its zero point is 0. The operators after
    it move by one place.
    """
    subgraph, old = operator.subgraph, operator.outputs[0]
    new = file.copy_tensor(subgraph, old)
    file.set_scales(subgraph, new, scales)
    file.set_outputs(operator, [new])
    file.insert(subgraph, operator.index + 1, "QUANTIZE", [new], old)


def _joined(constants: list[Constant], site: WeightSite) -> list[Constant]:
    """One scale where all are equal: fewer bytes, and older runtimes know it.

    Convolutions keep one scale a channel by convention.
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
