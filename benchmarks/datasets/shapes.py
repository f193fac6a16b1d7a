"""Synthetic images of ten shapes, as a `tensorflow-datasets` builder."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from datasets.chunks import in_chunks

SHAPES = (
    "disc",
    "square",
    "triangle",
    "pentagon",
    "star",
    "ring",
    "cross",
    "crescent",
    "half_disc",
    "arrow",
)

# Images drawn at once, see `in_chunks`.
_CHUNK = 250

# Of the 8-bit range, per pixel and channel.
_NOISE = 0.12


@dataclasses.dataclass(eq=False, kw_only=True)
class ShapesConfig(tfds.core.BuilderConfig):
    """Size of the images, and of the splits.

    Args:
        image_size: Height and width in pixels.
        num_images: Number of images per split.
    """

    image_size: int = 32
    num_images: Mapping[str, int] = dataclasses.field(default_factory=dict)


class Shapes(tfds.core.GeneratorBasedBuilder):
    """Ten-class images made by a program; nothing is downloaded.

    One shape per image, anywhere, of any size, angle and colour, on an
    uneven background that is as often darker as brighter, with a distracting
    bar and strong noise. No pixel's mean depends on the class, so that a linear
    model stays near chance.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (
        ShapesConfig(
            name="32",
            description="32x32x3",
            image_size=32,
            num_images={"train": 20_000, "validation": 5_000, "test": 10_000},
        ),
        ShapesConfig(
            name="96",
            description="96x96x3",
            image_size=96,
            num_images={"train": 6_000, "validation": 1_500, "test": 3_000},
        ),
    )

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.image_size
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(size, size, 3), encoding_format="png"
                    ),
                    "label": tfds.features.ClassLabel(names=SHAPES),
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,  # The classes are drawn at random.
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator]:
        return {
            split: self._generate_examples(split, count)
            for split, count in self.builder_config.num_images.items()
        }

    def _generate_examples(self, split: str, count: int) -> Iterator:
        size = self.builder_config.image_size
        images = generate(split, count, image_size=size)
        for index, (image, label) in enumerate(images):
            yield index, {"image": Image.fromarray(image), "label": label}


def generate(
    split: str, count: int, *, image_size: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields the first images of a split, always the same ones.

    Args:
        split: Name of the split; each has a random stream of its own.
        count: Number of images.
        image_size: Height and width in pixels.

    Returns:
        An iterator of a uint8 array of shape `(image_size, image_size, 3)` and
        the label, an index into `SHAPES`.
    """

    def make(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.integers(0, len(SHAPES), _CHUNK)
        return draw(labels, image_size=image_size, rng=rng), labels

    return in_chunks(make, split, count)


def draw(
    labels: np.ndarray, *, image_size: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws one image per label.

    Args:
        labels: Integer array of shape `(n,)`, indices into `SHAPES`.
        image_size: Height and width in pixels.
        rng: Source of everything else.

    Returns:
        A uint8 array of shape `(n, image_size, image_size, 3)`.
    """
    count = len(labels)
    x, y = _pixel_grid(image_size)
    background = _texture(count, x, y, rng)
    bar = _bar(count, x, y, rng)
    background += _colors(count, 0.5, rng) * bar[..., np.newaxis]

    radius = rng.uniform(0.4, 0.8, (count, 1, 1)).astype("float32")
    center_x, center_y = _uniform(rng, count, 0.9) * (1 - radius)[np.newaxis]
    angle = rng.uniform(0, 2 * np.pi, (count, 1, 1)).astype("float32")
    u, v = _rotate((x - center_x) / radius, (y - center_y) / radius, angle)
    distance = np.empty_like(u)
    for label, name in enumerate(SHAPES):
        chosen = labels == label
        distance[chosen] = _DISTANCES[name](u[chosen], v[chosen])
    # Half a pixel of blur on the edge; a pixel is `2 / image_size` wide.
    coverage = np.clip(0.5 - distance * radius * image_size / 2, 0, 1)

    images = background + _colors(count, 1.0, rng) * coverage[..., np.newaxis]
    images += _NOISE * rng.standard_normal(images.shape, dtype="float32")
    return np.clip(128 + 127 * images, 0, 255).astype("uint8")


def _pixel_grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the pixels' centres in [-1, 1]."""
    axis = ((np.arange(size, dtype="float32") + 0.5) / size) * 2 - 1
    return axis[np.newaxis, np.newaxis, :], axis[np.newaxis, :, np.newaxis]


def _uniform(rng: np.random.Generator, count: int, bound: float) -> np.ndarray:
    """Two numbers in [-bound, bound] per image, of shape (2, count, 1, 1)."""
    return rng.uniform(-bound, bound, (2, count, 1, 1)).astype("float32")


def _colors(
    count: int, strength: float, rng: np.random.Generator
) -> np.ndarray:
    """A contrast per image and channel: one sign, varying strength."""
    sign = rng.choice([-1.0, 1.0], (count, 1, 1, 1))
    color = rng.uniform(0.1, 0.8, (count, 1, 1, 3))
    return (strength * sign * color).astype("float32")


def _texture(
    count: int, x: np.ndarray, y: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A colour per image, with two waves of random direction per channel."""
    texture = rng.uniform(-0.3, 0.3, (count, 1, 1, 3)).astype("float32")
    for _ in range(2):
        wave_x, wave_y = _uniform(rng, count, 6.0)[..., np.newaxis]
        phase = rng.uniform(0, 2 * np.pi, (count, 1, 1, 3)).astype("float32")
        strength = rng.uniform(0, 0.15, (count, 1, 1, 3)).astype("float32")
        angle = wave_x * x[..., np.newaxis] + wave_y * y[..., np.newaxis]
        texture = texture + strength * np.sin(angle + phase)
    return texture


def _bar(
    count: int, x: np.ndarray, y: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A thin bar across each image, in [0, 1]."""
    angle = rng.uniform(0, np.pi, (count, 1, 1)).astype("float32")
    place = rng.uniform(-0.8, 0.8, (count, 1, 1)).astype("float32")
    u, _ = _rotate(x, y, angle)
    return np.clip(2 - 20 * np.abs(u - place), 0, 1)


def _rotate(
    x: np.ndarray, y: np.ndarray, angle: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    cosine, sine = np.cos(angle), np.sin(angle)
    return cosine * x + sine * y, cosine * y - sine * x


def _polygon(num_corners: int, inner_radius: float | None = None) -> Callable:
    """A regular polygon, or a star whose inner corners have a radius."""
    half = np.pi / num_corners
    inner = np.cos(half) if inner_radius is None else inner_radius
    # The edge from the outer corner (1, 0) to the inner one at angle `half`.
    end_x, end_y = inner * np.cos(half), inner * np.sin(half)
    length = np.hypot(end_x - 1, end_y)
    normal_x, normal_y = end_y / length, (1 - end_x) / length

    def distance(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        angle = np.arctan2(v, u)
        angle = np.abs((angle + half) % (2 * half) - half)
        r = np.hypot(u, v)
        x, y = r * np.cos(angle), r * np.sin(angle)
        return (x - 1) * normal_x + y * normal_y

    return distance


def _box(
    u: np.ndarray, v: np.ndarray, width: float, height: float
) -> np.ndarray:
    return np.maximum(np.abs(u) - width, np.abs(v) - height)


def _disc(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.hypot(u, v) - 0.85


def _arrow(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A shaft, and a head of two slanted edges."""
    shaft = _box(u + 0.35, v, 0.6, 0.18)
    head = np.maximum((np.abs(v) * 1.2 + u - 1) / np.hypot(1.2, 1), -u)
    return np.minimum(shaft, head)


# Signed distance to the edge, negative inside, in units of the radius; near
# the edge only, which is where it is used.
_DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": _disc,
    "square": _polygon(4),
    "triangle": _polygon(3),
    "pentagon": _polygon(5),
    "star": _polygon(5, inner_radius=0.45),
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.68) - 0.2,
    "cross": lambda u, v: np.minimum(
        _box(u, v, 0.9, 0.25), _box(u, v, 0.25, 0.9)
    ),
    "crescent": lambda u, v: np.maximum(
        np.hypot(u, v) - 0.9, 0.75 - np.hypot(u - 0.4, v)
    ),
    "half_disc": lambda u, v: np.maximum(np.hypot(u, v) - 1, -u),
    "arrow": _arrow,
}
