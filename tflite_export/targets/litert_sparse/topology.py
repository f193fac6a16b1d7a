"""Proves that XNNPACK's sparse kernels compute a float file rightly.

On ARM, XNNPACK turns a whole network from HWC to CHW layout if one of its
weights is sparse. It checks the two ends of the network more than the middle:
an unexpected operator there reads CHW as HWC, and the outputs are wrong without
a message. x86 never does that. So the proof visits every operator, and allows
those that LiteRT 2.3 was measured to compute rightly. The repairs: `padding`.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.operators import UNPACKING
from tflite_export.format.records import Operator, Tensor
from tflite_export.targets.findings import Finding

FUSED_ACTIVATIONS = ("NONE", "RELU", "RELU6")
_ACTIVATIONS = (
    "ELU",
    "GELU",
    "HARD_SWISH",
    "LEAKY_RELU",
    "LOGISTIC",
    "TANH",
)
_INPUT_ARITHMETIC = ("ADD", "DIV", "MUL", "SUB")
ENTRY_REMEDY = (
    "Build and train the network with `ZeroPadding2D(1)` and `Conv2D(filters, "
    '3, strides=2, padding="valid")` on an image of 3 channels as its first '
    "layers: this one cannot be repaired."
)
_DEPTHWISE_REMEDY = (
    'Use a kernel of 3 or 5 with stride 1 and `padding="same"`, or with stride '
    '2, `padding="valid"` and `ZeroPadding2D(kernel_size // 2)` in front.'
)
_MIDDLE_REMEDY = (
    "Between the first convolution and the pooling use Conv2D of 1x1, "
    "DepthwiseConv2D of 3x3 or 5x5, Add, Multiply and activations."
)


class Layout(NamedTuple):
    """The layout of a tensor on the way through the network.

    `kind` is "image" (HWC, before the entry), "map" (CHW), "pooled" (CHW, one
    value a channel), "flat" (after the pooling), "pixels" (a map turned back),
    "constant", or "unknown" after a finding. `margins` are the zeros that a PAD
    has put around it, for each side.
    """

    kind: str
    margins: tuple[int, ...] | None = None


def topology_findings(file: Flatbuffer) -> tuple[Finding, ...]:
    """Finds the operators that keep a float32 graph from the sparse kernels.

    The weights do not count. Each first cause is one blocking finding.
    """
    return tuple(_LayoutWalk(file).findings)


def is_computed_sparsely(file: Flatbuffer) -> bool:
    """Whether XNNPACK takes its sparse kernels on ARM, given enough zeros."""
    sparse = {
        (operator.subgraph, operator.outputs[0])
        for operator in file.operators
        if operator.name == "DENSIFY"
    }
    sparse |= {
        (operator.subgraph, operator.outputs[0])
        for operator in file.operators
        if operator.name == "DEQUANTIZE"
        and (operator.subgraph, operator.inputs[0]) in sparse
    }
    return any(file.tensor(*key).dtype == "float32" for key in sparse)


class _LayoutWalk:
    """Follows the image through the operators, in order of execution."""

    def __init__(self, file: Flatbuffer) -> None:
        self.findings: list[Finding] = []
        self._file = file
        self._maps: dict[int, Layout] = {}
        self._num_entries = 0
        self._readers = Counter(
            index for operator in file.operators for index in operator.inputs
        )
        if file.num_subgraphs > 1:
            self._add("control flow", "the file has several graphs.", "")
            return
        self._start()
        for operator in file.operators:
            kind = self._visit(operator)
            for index in operator.outputs:
                self._maps[index] = kind
        self._finish()

    def _start(self) -> None:
        inputs, _ = self._file.interface()
        for index in inputs:
            tensor = self._file.tensor(0, index)
            is_image = len(tensor.shape) == 4 and tensor.shape[3] == 3
            if len(inputs) > 1 or not is_image or tensor.dtype != "float32":
                self._add(
                    f"input {tensor.name!r}",
                    "must be one float32 image of shape (1, height, width, 3). "
                    f"Received: {len(inputs)} inputs, here {tensor.dtype} of "
                    f"shape {tensor.shape}.",
                    ENTRY_REMEDY,
                )
            self._maps[index] = Layout("image")

    def _finish(self) -> None:
        if not self.findings and not self._num_entries:
            self._add("entry", "there is no first convolution.", ENTRY_REMEDY)
        for index in self._file.interface()[1]:
            if self._map(index).kind not in ("flat", "pixels", "unknown"):
                self._add(
                    f"output {self._file.tensor(0, index).name!r}",
                    "leaves the network without a global pooling.",
                    "Put `GlobalAveragePooling2D()`, with `keepdims=False`, in "
                    "front of the head, and a Dense after it.",
                )

    def _visit(self, operator: Operator) -> Layout:
        maps = [self._map(i) for i in operator.inputs if i >= 0]
        kinds = {m.kind for m in maps}
        if "unknown" in kinds:
            return Layout("unknown")
        if kinds <= {"constant"} and operator.name in UNPACKING:
            return Layout("constant")
        if kinds <= {"flat", "constant"}:
            return self._flat(operator)
        rules: dict[str, Callable[[Operator, list[Layout]], Layout]] = {
            "ADD": self._arithmetic,
            "CONV_2D": self._convolution,
            "DEPTHWISE_CONV_2D": self._depthwise,
            "DEPTH_TO_SPACE": self._turn_back,
            "MEAN": self._pooling,
            "MUL": self._arithmetic,
            "PAD": self._padding,
            "RESIZE_BILINEAR": self._resizing,
        }
        if kinds <= {"image", "constant"} and maps[0].margins is None:
            if operator.name in _INPUT_ARITHMETIC:
                return Layout("image")
        is_convolution = operator.name in ("CONV_2D", "DEPTHWISE_CONV_2D")
        if is_convolution and not self._has_fixed_weights(operator):
            return Layout("unknown")
        if operator.name in rules:
            return rules[operator.name](operator, maps)
        if operator.name in _ACTIVATIONS and self._is_plain(maps[0]):
            return maps[0]
        if operator.name in ("RELU", "RELU6"):
            return self._stop(
                operator,
                "stands alone, and the CHW layout has it only as a part of a "
                "convolution or an addition.",
                "Put the ReLU directly after a Conv2D, DepthwiseConv2D (or its "
                "BatchNormalization) or Add, as its only reader.",
            )
        if "pooled" in kinds:
            return self._stop(
                operator,
                "reads a pooling with `keepdims=True` as a map.",
                "Use `GlobalAveragePooling2D()` and a Dense as the head.",
            )
        if kinds <= {"image", "constant"}:
            return self._stop(operator, "is no entry.", ENTRY_REMEDY)
        return self._stop(operator, "knows no CHW layout.", _MIDDLE_REMEDY)

    def _convolution(self, operator: Operator, maps: list[Layout]) -> Layout:
        source = maps[0]
        kernel = self._file.tensor(0, operator.inputs[1]).shape
        size, strides, dilation = _geometry(operator, kernel)
        if source.kind == "image":
            self._num_entries += 1
            is_entry = (
                kernel[1:] == (3, 3, 3)
                and (strides, dilation) == ((2, 2), (1, 1))
                and source.margins == (1, 1, 1, 1)
                and _option(operator, "padding") == "VALID"
                and self._num_entries == 1
            )
            if is_entry:
                return Layout("map")
            return self._stop(
                operator,
                "is not the entry that the CHW layout needs. Received: a "
                f"kernel of {_by(size)}, {kernel[3]} channels, stride "
                f"{_by(strides)}, padding {self._padding_text(operator)}.",
                ENTRY_REMEDY,
            )
        if source.margins is not None or size != (1, 1):
            text = f"is a {_by(size)} convolution behind the entry."
            return self._stop(operator, text, _MIDDLE_REMEDY)
        if strides != (1, 1):
            return self._stop(
                operator,
                f"is a 1x1 convolution of stride {_by(strides)}.",
                "Let the DepthwiseConv2D in front of it have the stride.",
            )
        channels = self._file.tensor(0, operator.inputs[0]).shape[3]
        if kernel[3] != channels:
            text = f"is a 1x1 convolution of {channels // kernel[3]} groups."
            return self._stop(operator, text, "Use `groups=1`.")
        return source

    def _depthwise(self, operator: Operator, maps: list[Layout]) -> Layout:
        source = maps[0]
        kernel = self._file.tensor(0, operator.inputs[1]).shape
        size, strides, dilation = _geometry(operator, kernel)
        channels = self._file.tensor(0, operator.inputs[0]).shape[3]
        padding = _option(operator, "padding")
        half = size[0] // 2
        is_symmetric = (
            source.margins == (half,) * 4 and padding == "VALID"
        ) or (source.margins is None and (padding, strides) == ("SAME", (1, 1)))
        if (
            source.kind == "map"
            and size in ((3, 3), (5, 5))
            and strides in ((1, 1), (2, 2))
            and dilation == (1, 1)
            and kernel[3] == channels
            and is_symmetric
        ):
            return Layout("map")
        return self._stop(
            operator,
            "must be 3x3 with 1 or 5x5 with 2 zeros on each side. Received: a "
            f"kernel of {_by(size)}, stride {_by(strides)}, dilation "
            f"{_by(dilation)}, depth multiplier {kernel[3] // channels}, "
            f"padding {self._padding_text(operator)}.",
            _DEPTHWISE_REMEDY,
        )

    def _padding(self, operator: Operator, maps: list[Layout]) -> Layout:
        amounts = self._file.tensor(0, operator.inputs[1]).data
        if (
            amounts is None
            or amounts.shape != (4, 2)
            or amounts[[0, 3]].any()
            or maps[0] not in (Layout("image"), Layout("map"))
            or self._readers[operator.outputs[0]] != 1
        ):
            return self._stop(
                operator,
                "must pad height and width for one convolution alone.",
                "Give each convolution its own `ZeroPadding2D`.",
            )
        margins = tuple(int(amount) for amount in amounts[1:3].ravel())
        return maps[0]._replace(margins=margins)

    def _arithmetic(self, operator: Operator, maps: list[Layout]) -> Layout:
        if any(m.kind == "constant" for m in maps):
            return self._stop(
                operator,
                "has a constant, such as that of a BatchNormalization outside "
                "of a convolution.",
                "Put each BatchNormalization directly after a Conv2D or "
                "DepthwiseConv2D, in front of its activation.",
            )
        left, right = (
            self._file.tensor(0, i).shape for i in operator.inputs[:2]
        )
        kinds = {m.kind for m in maps}
        if len(set(operator.inputs)) == 1:
            # XNNPACK then takes its dense kernels; the outputs are right.
            text = "combines a map with itself."
            return self._stop(operator, text, "Let a Conv2D do it.")
        if not all(self._is_plain(m) for m in maps) or not (
            left == right
            or (operator.name == "MUL" and kinds == {"map", "pooled"})
        ):
            text = f"combines tensors of shapes {left} and {right}."
            return self._stop(operator, text, "Use maps of equal shapes.")
        if not self._is_fusable(operator):
            return Layout("unknown")
        return Layout("map" if "map" in kinds else "pooled")

    def _pooling(self, operator: Operator, maps: list[Layout]) -> Layout:
        axes = self._file.tensor(0, operator.inputs[1]).data
        is_global = axes is not None and sorted(
            int(axis) % 4 for axis in axes.ravel()
        ) == [1, 2]
        if maps[0] != Layout("map") or not is_global:
            return self._stop(
                operator,
                "must be the mean of a map over height and width.",
                "Use `GlobalAveragePooling2D()` once, after the last map.",
            )
        return Layout("pooled" if _option(operator, "keepDims") else "flat")

    def _turn_back(self, operator: Operator, maps: list[Layout]) -> Layout:
        if maps[0] == Layout("map"):
            return Layout("pixels")
        return self._stop(operator, "must read a map.", _MIDDLE_REMEDY)

    def _resizing(self, operator: Operator, maps: list[Layout]) -> Layout:
        if maps[0] == Layout("map") and maps[1].kind == "constant":
            return Layout("map")
        return self._stop(operator, "must read a map.", _MIDDLE_REMEDY)

    def _flat(self, operator: Operator) -> Layout:
        shapes = [self._file.tensor(0, i).shape for i in operator.outputs]
        if all(len(shape) <= 2 for shape in shapes):
            return Layout("flat")
        return self._stop(
            operator,
            f"makes a tensor of shape {shapes[0]} after the pooling.",
            "Use Dense layers as the head.",
        )

    def _has_fixed_weights(self, operator: Operator) -> bool:
        shapes = [self._file.tensor(0, i).shape for i in operator.inputs[:2]]
        is_constant = self._map(operator.inputs[1]).kind == "constant"
        if not is_constant or any(len(s) != 4 or 0 in s for s in shapes):
            text = "has no constant weights of rank 4."
            self._stop(operator, text, _MIDDLE_REMEDY)
            return False
        return self._is_fusable(operator)

    def _is_fusable(self, operator: Operator) -> bool:
        activation = _option(operator, "fusedActivationFunction")
        if activation not in FUSED_ACTIVATIONS:
            text = f"has the activation {activation} built in."
            self._stop(operator, text, "Use ReLU or `ReLU(6.0)`.")
            return False
        return True

    def _is_plain(self, source: Layout) -> bool:
        return source.kind in ("map", "pooled") and source.margins is None

    def _map(self, index: int) -> Layout:
        if index in self._maps:
            return self._maps[index]
        # Only constants come from no operator.
        return Layout("constant")

    def _padding_text(self, operator: Operator) -> str:
        margins = self._map(operator.inputs[0]).margins
        padding = str(_option(operator, "padding"))
        return padding if margins is None else f"{padding} and zeros {margins}"

    def _stop(self, operator: Operator, text: str, remedy: str) -> Layout:
        names = [_short(self._file.tensor(0, i)) for i in operator.outputs[:1]]
        self._add(" ".join([operator.name, *names]), text, remedy)
        return Layout("unknown")

    def _add(self, subject: str, text: str, remedy: str) -> None:
        self.findings.append(Finding(subject, text, remedy))


def _geometry(
    operator: Operator, kernel: tuple[int, ...]
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Size of the kernel, strides and dilation, each (height, width)."""
    strides, dilation = (
        (int(_option(operator, height)), int(_option(operator, width)))
        for height, width in (
            ("strideH", "strideW"),
            ("dilationHFactor", "dilationWFactor"),
        )
    )
    return (kernel[1], kernel[2]), strides, dilation


def _option(operator: Operator, name: str) -> Any:
    """An option; 0, which is no valid value, if the file has none."""
    return operator.options.get(name, 0)


def _by(pair: tuple[int, int]) -> str:
    return f"{pair[0]}x{pair[1]}"


def _short(tensor: Tensor) -> str:
    return repr(tensor.short_name)
