"""What few bits and zeros keep of weights, at which bytes. NumPy only."""

import dataclasses

import numpy as np

# Parts of the largest magnitude that the largest level may be.
_CLIPS = np.linspace(1.0, 0.25, 16)
_SPARSITIES = np.arange(0.0, 0.99, 0.02)

# More weights tell the same, to 0.1 dB.
_MAX_WEIGHTS = 1 << 14

# The grids of zeros and clips are coarse: a rate may be so much above another
# and be called the same.
_SAME_RATE = 1.005


@dataclasses.dataclass(frozen=True)
class Choice:
    """Bits and zeros that a kernel may have, and what they keep.

    Attributes:
        bit_width: Bits per weight, in 2..8.
        sparsity: Fraction of zeros, in [0, 1].
        snr_db: `10 log10(sum(w ** 2) / sum((w - q) ** 2))`, in decibels: the
            more, the nearer the levels `q` are to the latent weights `w`.

    Example:

    >>> print(Choice(bit_width=3, sparsity=0.43, snr_db=10.1))
    3 bits with 43% zeros (10.1 dB)
    """

    bit_width: int
    sparsity: float
    snr_db: float

    def __str__(self) -> str:
        """Returns a text such as "4 bits with 60% zeros (8.9 dB)"."""
        return (
            f"{self.bit_width} bits with {self.sparsity:.0%} zeros "
            f"({self.snr_db:.1f} dB)"
        )


@dataclasses.dataclass(frozen=True)
class Rate:
    """Bits per weight, as two coders count them.

    Attributes:
        entropy: Shannon entropy of the codes.
        coded: Bits of `costs.size_bytes`: levels that are not zero are taken
            to be equally likely.
    """

    entropy: float
    coded: float


def snr_db(weights: np.ndarray, values: np.ndarray) -> float | None:
    """Returns the signal-to-noise ratio of values in decibels.

    None where there is no signal, or no noise.

    Example:

    >>> snr_db(np.array([3.0, 1.0]), np.array([3.0, 0.0]))
    10.0
    """
    signal = float(np.sum(np.square(weights, dtype="float64")))
    noise = float(np.sum(np.square(weights - values, dtype="float64")))
    if not signal or not noise:
        return None
    return float(10 * np.log10(signal / noise))


def coded_bits(density: np.ndarray, bit_width: int) -> np.ndarray:
    """Returns bits per weight as `costs.size_bytes` counts them.

    Example:

    >>> float(coded_bits(np.array(0.5), 2))
    1.5
    """
    levels = 2.0**bit_width - 2.0
    density = np.clip(density, 1e-7, levels / (levels + 1))
    return density * np.log2(levels / density) - (1 - density) * np.log2(
        1 - density
    )


class Weights:
    """Weights in order of magnitude, to try many levels on them.

    Args:
        weights: Array of any shape.
        scales: What the largest level of each weight is a multiple of: an
            array of that shape, or a number.
        level_grid: `"dead_zone"` or `"uniform"`.
    """

    def __init__(
        self,
        weights: np.ndarray,
        scales: np.ndarray | float = 1.0,
        *,
        level_grid: str = "dead_zone",
    ) -> None:
        self._level_grid = level_grid
        of_each = np.broadcast_to(scales, weights.shape).ravel()
        of_each = np.maximum(of_each.astype("float64"), 1e-30)
        magnitudes = np.abs(weights).ravel() / of_each
        if magnitudes.size > _MAX_WEIGHTS:
            rng = np.random.default_rng(0)
            some = rng.choice(magnitudes.size, _MAX_WEIGHTS, replace=False)
            magnitudes, of_each = magnitudes[some], of_each[some]
        order = np.argsort(magnitudes)
        self._magnitudes = magnitudes[order]
        squares = np.square(of_each[order])
        # Sums over the weights before each: those of a cell are differences.
        self._sums: list[np.ndarray] = [
            np.append(0.0, np.cumsum(squares * self._magnitudes**power))
            for power in range(3)
        ]

    def best(self, bit_width: int, limit: Rate) -> Choice | None:
        """Returns the zeros that keep most, with the best largest level.

        None where no part of zeros is within the limit.
        """
        number, size = 2 ** (bit_width - 1) - 1, self._magnitudes.size
        is_possible = coded_bits(1 - _SPARSITIES, bit_width) <= (
            _SAME_RATE * limit.coded
        )
        first = (_SPARSITIES[is_possible] * size).astype(int)
        edges = np.append(0.0, self._magnitudes)[first]
        starts = self._starts(edges[:, None, None], first, number)
        ends = np.append(
            starts[..., 1:], np.full_like(starts[..., :1], size), -1
        )
        sums = [total[ends] - total[starts] for total in self._sums]
        levels = self._levels(edges[:, None, None], number, sums)
        noise = self._sums[2][starts[..., 0]] + np.sum(
            sums[2] - 2 * levels * sums[1] + levels**2 * sums[0], axis=-1
        )
        zeros = starts[..., 0] / size
        entropy = _entropy(zeros, (ends - starts) / size)
        coded = coded_bits(1 - zeros, bit_width)
        is_within = (entropy <= _SAME_RATE * limit.entropy) & (
            coded <= _SAME_RATE * limit.coded
        )
        if not is_within.any():
            return None
        place = np.unravel_index(
            np.where(is_within, noise, np.inf).argmin(), noise.shape
        )
        ratio = self._sums[2][-1] / max(noise[place], 1e-30)
        return Choice(
            bit_width, float(zeros[place]), 10 * float(np.log10(ratio))
        )

    def _tops(self, edges: np.ndarray) -> np.ndarray:
        """The largest levels to try, at least a little above the edge."""
        tops = _CLIPS[:, None] * self._magnitudes[-1]
        return np.maximum(tops, edges + 1e-9 * self._magnitudes[-1])

    def _starts(
        self, edges: np.ndarray, first: np.ndarray, number: int
    ) -> np.ndarray:
        """The number of the first weight of each level that is not zero."""
        tops, steps = self._tops(edges), np.arange(number)
        if self._level_grid == "uniform" and number > 1:
            bounds = np.maximum(edges, (steps + 0.5) * tops / number)
        else:
            bounds = edges + steps * (tops - edges) / (number - 0.5)
        found = np.searchsorted(self._magnitudes, bounds, side="right")
        return np.maximum(found, first[:, None, None])

    def _levels(
        self, edges: np.ndarray, number: int, sums: list[np.ndarray]
    ) -> np.ndarray:
        if number == 1:  # The mean kept magnitude.
            return sums[1] / np.maximum(sums[0], 1e-30)
        tops, steps = self._tops(edges), np.arange(number)
        if self._level_grid == "uniform":
            return (steps + 1) * tops / number
        return edges + (steps + 0.5) * (tops - edges) / (number - 0.5)


def _entropy(zeros: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Bits per weight; each level is as likely with either sign."""
    signs = 1.0 - zeros
    return _plogp(zeros) + signs + np.sum(_plogp(levels), axis=-1)


def _plogp(parts: np.ndarray) -> np.ndarray:
    return -parts * np.log2(np.maximum(parts, 1e-30))
