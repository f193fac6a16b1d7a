"""CoDeQConfig: how one kernel is pruned and quantized, and the rule lookup."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from codeq_keras.ops.grids import LEVEL_GRIDS
from codeq_keras.ops.intervals import Interval, as_python, require_number

# Beyond it tanh is flat and the gradient too small to lead back.
MAX_LOGIT = 4.0

# The bits of "auto" that no budget has chosen, and the least of "learned".
AUTO_BIT_WIDTH, LEAST_BIT_WIDTH = 4, 3


@keras.saving.register_keras_serializable(package="codeq_keras")
@dataclasses.dataclass(frozen=True)
class CoDeQConfig:
    """How the kernels of a model are pruned and quantized.

    Args:
        bit_width: `"auto"` (default): a `CompressionBudget` chooses 4 or 3
            bits for all kernels when its training begins, or that the bits
            are learned, from 2; until then they have 4. Or an integer in
            2..8, or `"learned"` for one width per kernel that is trained with
            the weights.
        min_bit_width: The least that `"learned"` may reach: `"auto"`
            (default) is 3, or 2 under a budget that would have
            `bit_width="auto"` learned. Or an integer in 2..8; 2 attracts
            every layer when the budget is in BOPs.
        max_bit_width: Integer in 2..8, the most that learned bits may reach.
        level_grid: `"dead_zone"` (default; int8 codes with few distinct
            values), `"uniform"` (codes of `bit_width` bits, for packed
            files) or `"paper"` (as published, the motion of the logits
            included, see `CompressionRegularizer`; cannot be exported).
        axis: None for one scale per kernel, -1 for one per output channel.
        sparsity_block: 1, 2 or 4 neighbouring output channels that are pruned
            together, see `codeq_keras.ops.fake_quantize`.
        sparsity_pattern: None, or `"2:4"`: of each 4 neighbouring input
            channels, per output channel and kernel position, the 2 largest
            weights stay. Ethos-U85 gets faster by it. Kernels that have no
            groups of 4 train without it, see `report`.
        range_quantile: Float in (0, 1], the quantile of `|w|` that becomes
            the largest level. The weights above it saturate.
        initial_dead_zone_logit: Float in (0, 4]. 3 starts with almost no
            pruning, about 0.5 with half of the range pruned.
        initial_bit_width_logit: Float in (0, 4]. 3 starts at
            `max_bit_width`. Used where bits are learned only; with
            `min_bit_width="auto"` a budget has them begin with its choice.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> CoDeQConfig(bit_width=3).level_grid
    'dead_zone'
    >>> CoDeQConfig(bit_width=9)
    Traceback (most recent call last):
        ...
    ValueError: `bit_width` must be an integer in 2..8, 'auto' or 'learned'. Received: bit_width=9.

    Reference:

    - [CoDeQ, 2025](https://arxiv.org/abs/2512.12981), section 6.1.
      Differs from it in: bits are chosen by a budget, where they are not
      asked to be learned; `min_bit_width` is not always 2; the default grid.
    """  # noqa: E501

    bit_width: int | str = "auto"
    min_bit_width: int | str = "auto"
    max_bit_width: int = 8
    level_grid: str = "dead_zone"
    axis: int | None = None
    sparsity_block: int = 1
    sparsity_pattern: str | None = None
    range_quantile: float = 0.99
    initial_dead_zone_logit: float = 3.0
    initial_bit_width_logit: float = 3.0

    def __post_init__(self) -> None:
        """Checks every argument, so that a mistake surfaces where it is."""
        for name, value in vars(self).items():
            object.__setattr__(self, name, as_python(value))
        if not (_is_bit_width(self.bit_width) or _is_name(self.bit_width)):
            raise ValueError(
                "`bit_width` must be an integer in 2..8, 'auto' or 'learned'. "
                f"Received: bit_width={self.bit_width!r}."
            )
        self._require_range()
        if self.level_grid not in LEVEL_GRIDS:
            raise ValueError(
                f"`level_grid` must be one of {LEVEL_GRIDS}. "
                f"Received: level_grid={self.level_grid!r}."
            )
        if self.axis not in (None, -1):
            raise ValueError(
                "`axis` must be None (one scale per kernel) or -1 (one per "
                f"output channel). Received: axis={self.axis!r}."
            )
        if self.sparsity_block not in (1, 2, 4):
            raise ValueError(
                "`sparsity_block` must be 1, 2 or 4. "
                f"Received: sparsity_block={self.sparsity_block!r}."
            )
        self._require_pattern()
        require_number(
            "range_quantile",
            self.range_quantile,
            Interval(0, 1, has_high=True),
        )
        for name in ("initial_dead_zone_logit", "initial_bit_width_logit"):
            require_number(
                name,
                getattr(self, name),
                Interval(0, MAX_LOGIT, has_high=True),
                "its sign has no meaning and beyond 4 the gradient vanishes",
            )

    @property
    def is_budgeted(self) -> bool:
        """Whether a budget has a say in the bits."""
        is_learned = self.bit_width == "learned"
        return self.bit_width == "auto" or (
            is_learned and self.min_bit_width == "auto"
        )

    def without_budget(self) -> "CoDeQConfig":
        """Returns it with numbers in the place of "auto"."""
        changes: dict[str, Any] = {}
        if self.bit_width == "auto":
            changes["bit_width"] = AUTO_BIT_WIDTH
        if self.min_bit_width == "auto":
            changes["min_bit_width"] = min(LEAST_BIT_WIDTH, self.max_bit_width)
        return dataclasses.replace(self, **changes)

    def _require_range(self) -> None:
        least: Any = self.min_bit_width
        most = self.max_bit_width
        if isinstance(least, str) and least == "auto":
            least = LEAST_BIT_WIDTH if self.bit_width == "learned" else 2
        if not (_is_bit_width(least) and _is_bit_width(most) and least <= most):
            raise ValueError(
                "`min_bit_width` (or 'auto', which is at most 3) and "
                "`max_bit_width` must be integers with 2 <= min_bit_width <= "
                "max_bit_width <= 8. Received: "
                f"min_bit_width={self.min_bit_width!r}, "
                f"max_bit_width={most!r}."
            )

    def _require_pattern(self) -> None:
        if self.sparsity_pattern is None:
            return
        if self.sparsity_pattern != "2:4":
            raise ValueError(
                "`sparsity_pattern` must be None or '2:4'. Received: "
                f"sparsity_pattern={self.sparsity_pattern!r}."
            )
        if self.sparsity_block != 1:
            raise ValueError(
                "`sparsity_pattern` and `sparsity_block` are for different "
                "devices and exclude each other. Received: sparsity_pattern="
                f"'2:4', sparsity_block={self.sparsity_block}. Leave one out."
            )
        if self.level_grid == "paper":
            raise ValueError(
                "`sparsity_pattern` needs a grid on which weights at zero "
                "learn. Received: sparsity_pattern='2:4', level_grid='paper'. "
                "Use 'dead_zone' or 'uniform'."
            )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "CoDeQConfig":
        """Creates the config from `get_config()`."""
        # Files of November 2026 have it here; `QuantizedModel` reads it.
        config = {k: v for k, v in config.items() if k != _OF_THE_MODEL}
        return cls(**config)


_OF_THE_MODEL = "activation_bit_width"

Overrides = Mapping[str, CoDeQConfig | None]


def require_overrides(overrides: Overrides | None) -> dict[str, Any]:
    """Returns the rules; a ValueError for what is no map of configs."""
    if not isinstance(overrides, Mapping | None):
        remedy = "as in `overrides={'head': None}`."
        if isinstance(overrides, CoDeQConfig):
            remedy = "as `{pattern: config}`. One config for all kernels is "
            remedy += "`config`."
        raise ValueError(
            "`overrides` must be a map from regular expressions to a "
            f"CoDeQConfig or None. Received: overrides={overrides!r}. Write "
            f"it {remedy}"
        )
    for pattern, rule in (overrides or {}).items():
        if rule is not None and not isinstance(rule, CoDeQConfig):
            raise ValueError(
                "The values of `overrides` must be a CoDeQConfig, or None to "
                f"leave the kernel in float. Received: {pattern!r}: {rule!r}. "
                f"{_config_for(rule)}"
            )
    return dict(overrides or {})


def require_config(config: CoDeQConfig | None) -> CoDeQConfig:
    """Returns the config, or the default one; anything else is a ValueError."""
    if config is not None and not isinstance(config, CoDeQConfig):
        raise ValueError(
            "`config` must be a CoDeQConfig, or None for its defaults. "
            f"Received: config={config!r}. {_config_for(config)}"
        )
    return config or CoDeQConfig()


def _config_for(value: Any) -> str:
    """The remedy for a value that stands where a config belongs."""
    value = as_python(value)
    if _is_bit_width(value) or _is_name(value):
        return f"Write `CoDeQConfig(bit_width={value!r})`."
    if isinstance(value, type) and issubclass(value, CoDeQConfig):
        return "Write `CoDeQConfig()`, with parentheses."
    return "Write its fields by name, as in `CoDeQConfig(bit_width=4)`."


def require_patterns(
    name: str, patterns: Iterable[str], paths: Iterable[str]
) -> None:
    """Raises a ValueError for a key that is malformed or matches nothing."""
    paths = list(paths)
    for pattern in patterns:
        if not isinstance(pattern, str):
            written = getattr(pattern, "name", str(pattern))
            raise ValueError(
                f"The keys of `{name}` must be regular expressions. "
                f"Received: {pattern!r}. Write its name, {written!r}."
            )
        try:
            found = any(re.search(pattern, path) for path in paths)
        except re.error as error:
            raise ValueError(
                f"The keys of `{name}` must be regular expressions. "
                f"Received: {pattern!r} ({error})."
            ) from error
        if not found:
            raise ValueError(
                f"Every key of `{name}` must match the path of at least one "
                f"kernel (`re.search`). Received: {pattern!r}. The paths of "
                f"this model are {paths}."
            )


def first_match(path: str, rules: Mapping[str, Any], default: Any) -> Any:
    """Returns the value of the first rule found in `path`, or the default."""
    for pattern, value in rules.items():
        if re.search(pattern, path):
            return value
    return default


def _is_name(bit_width: Any) -> bool:
    return isinstance(bit_width, str) and bit_width in ("auto", "learned")


def _is_bit_width(value: Any) -> bool:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return is_integer and 2 <= value <= 8
