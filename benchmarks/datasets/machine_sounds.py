"""Synthetic sounds of machines, as a `tensorflow-datasets` builder."""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow_datasets as tfds

from datasets.chunks import in_chunks

NUM_FRAMES = 5
NUM_BANDS = 128

CLASSES = ("normal", "anomalous")

# Windows made at once, see `in_chunks`.
_CHUNK = 500

_NUM_MACHINES = 4
_NUM_HARMONICS = 12

# Band of the fundamental, at the lowest and the highest speed.
_FUNDAMENTAL = (6.0, 14.0)

# Standard deviation of the noise in every band and frame.
_NOISE = 0.5

# Height of what an anomaly adds, from the faintest to the strongest; half of
# it where many bands rise together.
_STRENGTH = (0.5, 2.0)

# Bands of a rough one.
_ROUGH_BANDS = 24


@dataclasses.dataclass(eq=False, kw_only=True)
class MachineSoundsConfig(tfds.core.BuilderConfig):
    """Size of the splits.

    Args:
        num_windows: Number of windows per split.
    """

    num_windows: Mapping[str, int] = dataclasses.field(default_factory=dict)


class MachineSounds(tfds.core.GeneratorBasedBuilder):
    """Windows of log-mel spectra, to find anomalies; nothing is downloaded.

    Shaped like MLPerf Tiny's input, 5 frames of 128 bands, but made by a
    program: four machines, each with its own harmonics, hiss and pulse, run
    at any speed and loudness in noise. The training split is normal; half of
    the others has an anomaly of one of four kinds: a whine in one band,
    harmonics at half the speed, many rough bands, a knock in one frame.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (
        MachineSoundsConfig(
            name="log_mel",
            description="5 frames of 128 bands",
            num_windows={
                "train": 20_000,
                "validation": 5_000,
                "test": 10_000,
            },
        ),
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "log_mel": tfds.features.Tensor(
                        shape=(NUM_FRAMES * NUM_BANDS,), dtype=np.float32
                    ),
                    "label": tfds.features.ClassLabel(names=CLASSES),
                }
            ),
            supervised_keys=("log_mel", "label"),
            disable_shuffling=True,  # Drawn at random.
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator]:
        return {
            split: self._generate_examples(split, count)
            for split, count in self.builder_config.num_windows.items()
        }

    def _generate_examples(self, split: str, count: int) -> Iterator:
        for index, (window, label) in enumerate(generate(split, count)):
            yield index, {"log_mel": window, "label": label}


def generate(split: str, count: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yields the first windows of a split, always the same ones.

    Args:
        split: Name of the split; each has a random stream of its own. Those of
            "train" are normal.
        count: Number of windows.

    Returns:
        An iterator of a float32 array of shape `(640,)`, frame after frame,
        and the label, an index into `CLASSES`.
    """

    def make(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.integers(0, 2, _CHUNK) * (split != "train")
        return record(labels, rng=rng), labels

    return in_chunks(make, split, count)


def record(labels: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Makes one window per label.

    Args:
        labels: Integer array of shape `(n,)`, indices into `CLASSES`.
        rng: Source of everything else.

    Returns:
        A float32 array of shape `(n, 640)`, about zero.
    """
    count = len(labels)
    machine = rng.integers(0, _NUM_MACHINES, count)
    fundamental = rng.uniform(*_FUNDAMENTAL, count)
    heights, hiss, rates, pulses = (m[machine] for m in _machines())

    harmonics = np.arange(1, _NUM_HARMONICS + 1)
    sound = _peaks(_bands_of(fundamental, harmonics), heights)
    sound += hiss
    phase = rng.uniform(0, 2 * np.pi, (count, 1, 1))
    frames = np.arange(NUM_FRAMES)[:, np.newaxis]
    swing = np.cos(phase + frames * rates[:, np.newaxis])
    windows = sound[:, np.newaxis] + swing * pulses[:, np.newaxis]
    windows += rng.normal(0, 0.5, (count, 1, 1))  # Loudness.
    windows += (labels == 1)[:, np.newaxis, np.newaxis] * _anomalies(
        fundamental, rng
    )
    windows += _NOISE * rng.standard_normal(windows.shape)
    return windows.reshape(count, -1).astype("float32")


def _machines() -> tuple[np.ndarray, ...]:
    """Each one's harmonics, hiss, and the rate and spectrum of its pulse."""
    rng = np.random.default_rng(0)
    heights = rng.uniform(0.5, 3.0, (_NUM_MACHINES, _NUM_HARMONICS))
    hiss = _smooth_spectra(rng, _NUM_MACHINES)
    rates = rng.uniform(0.5, 2.0, (_NUM_MACHINES, 1))
    return heights, hiss, rates, 0.5 * _smooth_spectra(rng, _NUM_MACHINES)


def _smooth_spectra(rng: np.random.Generator, count: int) -> np.ndarray:
    """Sums of a few slow waves over the bands."""
    waves = np.cos(np.pi * np.outer(np.arange(5), np.linspace(0, 1, NUM_BANDS)))
    return rng.normal(0, 0.5, (count, 5)) @ waves


def _bands_of(fundamental: np.ndarray, multiples: np.ndarray) -> np.ndarray:
    """Where the multiples of each fundamental lie: the higher, the closer."""
    return 45 * np.log1p(np.outer(fundamental, multiples) / 12)


def _peaks(centres: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """Spectra `(n, 128)` with narrow peaks; both arguments are `(n, peaks)`."""
    distance = np.arange(NUM_BANDS) - centres[..., np.newaxis]
    return (heights[..., np.newaxis] * np.exp(-0.5 * distance**2)).sum(1)


def _anomalies(fundamental: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What one anomaly of a random kind adds, `(n, 5, 128)`."""
    count = len(fundamental)
    strength = rng.uniform(*_STRENGTH, (count, 1))
    whine = _peaks(rng.uniform(0, NUM_BANDS, (count, 1)), strength)
    halves = np.arange(1, 6) + 0.5
    looseness = _peaks(_bands_of(fundamental, halves), strength)
    start = rng.integers(0, NUM_BANDS - _ROUGH_BANDS, (count, 1))
    distance = np.arange(NUM_BANDS) - start
    is_rough = (distance >= 0) & (distance < _ROUGH_BANDS)
    steady = np.stack([whine, looseness, 0.5 * strength * is_rough])
    is_hit = rng.integers(0, NUM_FRAMES, (count, 1)) == np.arange(NUM_FRAMES)
    knock = np.repeat((0.5 * strength * is_hit)[..., np.newaxis], NUM_BANDS, 2)
    kinds = [*np.repeat(steady[:, :, np.newaxis], NUM_FRAMES, axis=2), knock]
    kind = rng.integers(0, len(kinds), count)
    return np.choose(kind[:, np.newaxis, np.newaxis], kinds)
