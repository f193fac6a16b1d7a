"""The records of a comparison of a file with its model."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tflite_export.tables import as_text

# A model and its file that compute the same reach these. The rest are ties that
# float and fixed-point arithmetic round to different sides.
MIN_TOP1_AGREEMENT = 0.995
MIN_WITHIN_ONE_LSB = 0.99
_NUM_PLACES = 8


@dataclasses.dataclass(frozen=True)
class OutputComparison:
    """The distance of one output of the file from the model's.

    Attributes:
        name: Name of the output in the file.
        max_lsb: Largest difference, in steps of the int8 output (LSB).
        p99_lsb: 99th percentile of the differences, in LSB.
        top1_agreement: Fraction in [0, 1] of samples (of positions, for maps)
            with the same largest class; None for outputs of one value.
        within_one_lsb: Fraction in [0, 1] of the values that differ by one
            step at most.
        relative_to_range: Whether the differences are in units of the model's
            output range: a float output has no steps.
    """

    name: str
    max_lsb: float
    p99_lsb: float
    top1_agreement: float | None
    within_one_lsb: float = 1.0
    relative_to_range: bool = False


@dataclasses.dataclass(frozen=True)
class VerificationReport:
    """The proof that a file holds the trained codes.

    Attributes:
        codes_equal: Whether every trained code is in the file.
        num_tensors: Number of trained weight tensors.
        unequal: Paths of the weight tensors whose codes differ.
        outputs: One `OutputComparison` for each output.
        num_samples: Number of samples that the file was run on.
        layer_agreement: For each layer's path, the fraction of its values
            within one step of the model's, from the same inputs. Empty if the
            outputs agree, or if the activations were not quantized in training.
        narrow_features: For each input and output with features of very
            different sizes, the places in the last axis whose values all are
            within one step. Empty if the outputs agree.
        accuracy: The fraction in [0, 1] of samples whose largest output of the
            file is their label; None without labels.
        model_accuracy: The same of the model.

    Example:

    >>> output = OutputComparison("output_0", 1.25, 0.5, 0.75)
    >>> report = VerificationReport(True, 3, (), (output,), 8)
    >>> print(report)
    trained integers in the file: 3 of 3 tensors equal
    output_0 on 8 samples: max 1.25 LSB, 99 % below 0.50 LSB, top-1 agreement \
0.750
    """

    codes_equal: bool
    num_tensors: int
    unequal: tuple[str, ...]
    outputs: tuple[OutputComparison, ...]
    num_samples: int
    layer_agreement: Mapping[str, float] = dataclasses.field(
        default_factory=dict
    )
    narrow_features: Mapping[str, tuple[int, ...]] = dataclasses.field(
        default_factory=dict
    )

    accuracy: float | None = None
    model_accuracy: float | None = None

    @property
    def first_difference(self) -> str | None:
        """Path of the first layer that the file computes differently.

        More than 1 % of its values are more than one step away. None if the
        outputs agree, or if the roundings of many layers add up.
        """
        different = (
            path
            for path, within_one in self.layer_agreement.items()
            if within_one < MIN_WITHIN_ONE_LSB
        )
        return next(different, None)

    @property
    def max_output_lsb(self) -> float:
        """Largest difference of any output, in steps of that output."""
        return max(output.max_lsb for output in self.outputs)

    @property
    def p99_output_lsb(self) -> float:
        """99th percentile of the differences, of the worst output."""
        return max(output.p99_lsb for output in self.outputs)

    @property
    def within_one_lsb(self) -> float:
        """Fraction of values within one step, of the worst output."""
        return min(output.within_one_lsb for output in self.outputs)

    @property
    def top1_agreement(self) -> float | None:
        """Fraction in [0, 1] of the worst output; None if none has classes."""
        known = [
            output.top1_agreement
            for output in self.outputs
            if output.top1_agreement is not None
        ]
        return min(known, default=None)

    @property
    def differs(self) -> bool:
        """Whether an output differs by more than ties of rounding."""
        agreement = self.top1_agreement
        return self.within_one_lsb < MIN_WITHIN_ONE_LSB or (
            agreement is not None and agreement < MIN_TOP1_AGREEMENT
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain values, for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """Returns a summary of a few lines."""
        return as_text(self.parts())

    def parts(self) -> list[str]:
        """Returns the lines of the summary."""
        num_equal = self.num_tensors - len(self.unequal)
        lines = [
            f"trained integers in the file: {num_equal} of {self.num_tensors} "
            "tensors equal"
        ]
        if self.unequal:
            lines.append(f"DIFFERENT: {', '.join(self.unequal)}")
        for output in self.outputs:
            form, unit = (
                (".1e", "of the output range")
                if output.relative_to_range
                else (".2f", "LSB")
            )
            line = (
                f"{output.name} on {self.num_samples} samples: "
                f"max {output.max_lsb:{form}} {unit}, "
                f"99 % below {output.p99_lsb:{form}} {unit}"
            )
            if output.top1_agreement is not None:
                line += f", top-1 agreement {output.top1_agreement:.3f}"
            lines.append(line)
        if self.accuracy is not None and self.model_accuracy is not None:
            lines.append(
                f"accuracy on {self.num_samples} samples: file "
                f"{self.accuracy:.2%}, model {self.model_accuracy:.2%}"
            )
        lines += [
            f"{name}: the features {_listed(places)} are narrower than one "
            "step of its int8 scale, so they are lost. Normalize inputs before "
            "the model, and return outputs of different sizes separately"
            for name, places in self.narrow_features.items()
        ]
        if self.first_difference is not None:
            lines.append(f"they part first at {self.first_difference!r}")
        elif self.layer_agreement:
            lines.append(
                f"each of {len(self.layer_agreement)} layers by itself is "
                "within one step: their roundings add up"
            )
        return lines


def _listed(places: Sequence[int]) -> str:
    """The first numbers of a list, and how many there are."""
    shown = ", ".join(map(str, places[:_NUM_PLACES]))
    more = len(places) - _NUM_PLACES
    return f"{shown} and {more} more" if more > 0 else shown
