"""The networks and data that methods are compared on."""

from functools import partial
from typing import Any

import networks
import numpy as np
from datasets import load, machine_sounds
from harness.workload import ANOMALY_DETECTION, Arrays, Workload


def load_machine_sounds(split: str, count: int) -> Arrays:
    """Makes spectra; those for training are their own targets."""
    x, y = zip(*machine_sounds.generate(split, count), strict=True)
    inputs = np.stack(x)
    return inputs, (inputs if split == "train" else np.array(y))


def _shapes(
    network: str, build: Any, num_train: int = 10_000, **settings: Any
) -> Workload:
    note = (
        f"{network}; synthetic images of shapes, 32x32x3, "
        f"{num_train:,} for training"
    )
    if settings.get("augment"):
        note += ", mirrored and transposed"
    return Workload(
        build, partial(load, "shapes"), note, num_train=num_train, **settings
    )


def _mobilenet_96(name: str, build: Any) -> Workload:
    """For instructions on ARM; slow to train."""
    return Workload(
        partial(build, alpha=0.5, classes=10),
        partial(load, "shapes96"),
        f"{name}-0.5; synthetic images of shapes, 96x96x3, 6,000 for training",
        num_train=6_000,
        learning_rate=3e-3,
    )


_resnet8 = partial(
    _shapes,
    "MLPerf Tiny's ResNet-8 with a stem of stride 2 (3.2 M MACs)",
    lambda: networks.resnet8(stem_strides=2),
)

WORKLOADS = {
    "resnet8": _resnet8(),
    "resnet8_15000": _resnet8(num_train=15_000),
    "resnet8_20000": _resnet8(num_train=20_000),
    # Enough data for 99 %, where methods differ less.
    "resnet8_augmented": _resnet8(num_train=20_000, augment=True),
    "fashion_resnet8": Workload(
        lambda: networks.resnet8(input_shape=(28, 28, 1), stem_strides=2),
        partial(load, "fashion_mnist"),
        "MLPerf Tiny's ResNet-8 with a stem of stride 2 (2.6 M MACs); "
        "Fashion-MNIST, 28x28x1, 15,000 for training",
        num_train=15_000,
    ),
    "resnet20": _shapes(
        "ResNet-20 with a stem of stride 2 (10 M MACs)",
        lambda: networks.resnet20(stem_strides=2),
    ),
    "mobilenet_v1": _shapes(
        "MobileNetV1-0.25",
        lambda: networks.mobilenet_v1(input_shape=(32, 32, 3), classes=10),
    ),
    "mobilenet_v1_96": _mobilenet_96("MobileNetV1", networks.mobilenet_v1),
    "mobilenet_v2_96": _mobilenet_96("MobileNetV2", networks.mobilenet_v2),
    "vit": _shapes(
        "Vision transformer of 4 blocks, width 48, patches of 8x8",
        lambda: networks.vit(stem_convs=3),
        learning_rate=3e-3,  # 1e-3 was behind on validation.
    ),
    "ds_cnn": Workload(
        networks.ds_cnn,
        partial(load, "keywords"),
        "MLPerf Tiny's DS-CNN; synthetic keywords, 49x10",
    ),
    "fc_autoencoder": Workload(
        networks.fc_autoencoder,
        load_machine_sounds,
        "MLPerf Tiny's autoencoder; synthetic sounds of machines, 5x128, "
        "judged window by window",
        goal=ANOMALY_DETECTION,
        learning_rate=3e-3,  # 6e-3 was behind on validation.
    ),
}
