"""Synthetic spoken keywords, as a `tensorflow-datasets` builder."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow_datasets as tfds

from datasets.chunks import in_chunks

NUM_FRAMES = 49
NUM_COEFFICIENTS = 10

# Ten words of three sounds each: six orders of the sounds 0, 1, 2 and four of
# 3, 4, 5, so that it is the order that tells most words apart.
_WORDS = np.array(
    list(itertools.permutations((0, 1, 2)))
    + list(itertools.permutations((3, 4, 5)))[:4]
)
_NUM_SOUNDS = 6

CLASSES = (
    *("".join("abcdef"[sound] for sound in word) for word in _WORDS),
    "silence",
    "unknown",
)
_SILENCE, _UNKNOWN = len(_WORDS), len(_WORDS) + 1

# Utterances made at once, see `in_chunks`.
_CHUNK = 500

# Standard deviation of the noise; the sounds have a standard deviation of 1.
_NOISE = 1.0

# Frames that one sound lasts: from, to.
_DURATION = (5, 13)


@dataclasses.dataclass(eq=False, kw_only=True)
class KeywordsConfig(tfds.core.BuilderConfig):
    """Size of the splits.

    Args:
        num_utterances: Number of utterances per split.
    """

    num_utterances: Mapping[str, int] = dataclasses.field(default_factory=dict)


class Keywords(tfds.core.GeneratorBasedBuilder):
    """Keyword spotting with twelve classes; nothing is downloaded.

    Shaped like MLPerf Tiny's input, 49 frames of 10 cepstral coefficients,
    but made by a program: a word is three sounds in a row, each a fixed
    vector, spoken by speakers that differ in tempo, place, loudness and
    timbre, in noise. One class is noise alone, one is other words.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (
        KeywordsConfig(
            name="mfcc",
            description="49 frames of 10 coefficients",
            num_utterances={
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
                    "mfcc": tfds.features.Tensor(
                        shape=(NUM_FRAMES, NUM_COEFFICIENTS, 1),
                        dtype=np.float32,
                    ),
                    "label": tfds.features.ClassLabel(names=CLASSES),
                }
            ),
            supervised_keys=("mfcc", "label"),
            disable_shuffling=True,  # The classes are drawn at random.
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator]:
        return {
            split: self._generate_examples(split, count)
            for split, count in self.builder_config.num_utterances.items()
        }

    def _generate_examples(self, split: str, count: int) -> Iterator:
        utterances = generate(split, count)
        for index, (mfcc, label) in enumerate(utterances):
            yield index, {"mfcc": mfcc, "label": label}


def generate(split: str, count: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yields the first utterances of a split, always the same ones.

    Args:
        split: Name of the split; each has a random stream of its own.
        count: Number of utterances.

    Returns:
        An iterator of a float32 array of shape `(49, 10, 1)` and the label, an
        index into `CLASSES`.
    """

    def make(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.integers(0, len(CLASSES), _CHUNK)
        return speak(labels, rng=rng), labels

    return in_chunks(make, split, count)


def speak(labels: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Makes one utterance per label.

    Args:
        labels: Integer array of shape `(n,)`, indices into `CLASSES`.
        rng: Source of everything else.

    Returns:
        A float32 array of shape `(n, 49, 10, 1)`.
    """
    count = len(labels)
    words = _random_other_words(count, rng)
    is_word = labels < len(_WORDS)
    words[is_word] = _WORDS[labels[is_word]]

    durations = rng.integers(*_DURATION, (count, 3), endpoint=True)
    ends = np.cumsum(durations, axis=1)
    start = rng.integers(0, NUM_FRAMES - ends[:, -1], endpoint=True)
    edges = np.column_stack([np.zeros(count, int), ends]) + start[:, np.newaxis]
    # Segment 0 is before the word, 1 to 3 are its sounds, 4 is after it.
    frames = np.arange(NUM_FRAMES)
    segment = (frames[:, np.newaxis] >= edges[:, np.newaxis]).sum(-1)
    nothing = np.full((count, 1), _NUM_SOUNDS)
    padded = np.column_stack([nothing, words, nothing])
    sounds = np.take_along_axis(padded, segment, axis=1)

    mfcc = _sound_vectors()[sounds]
    mfcc = _smooth(mfcc) * _per_speaker(rng, count, mean=1.0, deviation=0.2)
    mfcc *= rng.uniform(0.7, 1.3, (count, 1, 1))
    mfcc[labels == _SILENCE] = 0.0
    mfcc += _per_speaker(rng, count, mean=0.0, deviation=0.3)
    noise = rng.standard_normal((count, NUM_FRAMES + 2, NUM_COEFFICIENTS))
    mfcc += _NOISE * (noise[:, 1:-1] + 0.5 * noise[:, 2:]) / np.hypot(1, 0.5)
    return mfcc[..., np.newaxis].astype("float32")


def _sound_vectors() -> np.ndarray:
    """The coefficients of each sound, and a last row of zeros for none."""
    vectors = np.random.default_rng(0).standard_normal(
        (_NUM_SOUNDS, NUM_COEFFICIENTS)
    )
    return np.vstack([vectors, np.zeros(NUM_COEFFICIENTS)])


def _random_other_words(count: int, rng: np.random.Generator) -> np.ndarray:
    """Three different sounds each that are none of the ten words."""
    others = np.array(
        sorted(
            set(itertools.permutations(range(_NUM_SOUNDS), 3))
            - set(map(tuple, _WORDS.tolist()))
        )
    )
    return others[rng.integers(0, len(others), count)]


def _smooth(mfcc: np.ndarray) -> np.ndarray:
    """Blends each frame with its neighbours, as overlapping windows do."""
    padded = np.pad(mfcc, ((0, 0), (1, 1), (0, 0)), mode="edge")
    return (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4


def _per_speaker(
    rng: np.random.Generator, count: int, *, mean: float, deviation: float
) -> np.ndarray:
    """One random number per utterance and coefficient."""
    return rng.normal(mean, deviation, (count, 1, NUM_COEFFICIENTS))
