"""How the paper trains each network: its section 6.1, and its optimizer."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import networks
import numpy as np

import codeq_keras

MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
FLOAT_RATE = 0.1  # Of a training in float that comes first.


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the paper trains one network, which it builds for some classes.

    SGD with momentum, or AdamW, on a cosine; the logits have a rate of their
    own. The `penalties` are the paper's lambda_dz and lambda_bit: loss terms
    under SGD, decays of the logits under AdamW, which would divide a term away.
    `needs_weights` says that the paper starts from a trained network.
    """

    build: Callable[[int], keras.Model]
    dataset: str
    epochs: int
    batch_size: int
    learning_rate: float
    penalties: tuple[float, float]
    logit_rate: float = 1e-3
    is_adam: bool = False
    needs_weights: bool = False


def _resnet50(classes: int) -> keras.Model:
    """Takes RGB in [-1, 1], as `datasets` has it, and the weights of Keras.

    These are for BGR in [0, 255] less a mean.
    """
    image = keras.Input((224, 224, 3))
    mean = np.array([103.939, 116.779, 123.68])
    x = keras.ops.flip(image, axis=-1)
    x = keras.layers.Rescaling(127.5, offset=list(127.5 - mean))(x)
    options = {"weights": None, "classifier_activation": None}
    net = keras.applications.ResNet50(
        input_tensor=x, classes=classes, **options
    )
    return keras.Model(image, net.output, name="resnet50")


# Epochs, batch sizes, penalties and the rates of the logits are those of the
# paper's section 6.1. It refers to "the original work" for the rest: rate and
# decay of SGD are those of the ResNet papers, a tenth of them for fine-tuning.
_IMAGENET = {
    "dataset": "imagenet2012",
    "epochs": 120,
    "learning_rate": 0.01,
    "logit_rate": 1e-4,
    "needs_weights": True,
}
RECIPES = {
    "resnet20": Recipe(
        lambda classes: networks.resnet20(classes=classes),
        "cifar10",
        epochs=300,
        batch_size=512,
        learning_rate=0.1,
        penalties=(0.01, 0.01),
    ),
    "resnet18": Recipe(
        lambda classes: networks.resnet18(classes=classes),
        batch_size=512,
        penalties=(0.02, 0.1),
        **_IMAGENET,
    ),
    "resnet50": Recipe(
        _resnet50, batch_size=256, penalties=(0.02, 0.05), **_IMAGENET
    ),
    # The paper does not say which TinyViT; this one is `networks.vit`.
    "tinyvit": Recipe(
        lambda classes: networks.vit(classes=classes),
        "cifar10",
        epochs=200,
        batch_size=128,
        learning_rate=3e-4,
        is_adam=True,
        penalties=(0.5, 0.75),
    ),
    # Not in the paper.
    "ds_cnn": Recipe(
        lambda classes: networks.ds_cnn(classes=classes),
        "speech_commands",
        epochs=36,
        batch_size=100,
        learning_rate=1e-3,
        is_adam=True,
        penalties=(0.5, 0.75),
    ),
}


def quantized(
    net: keras.Model, recipe: Recipe, budget: float | None
) -> codeq_keras.QuantizedModel:
    """Returns the network to train: for a budget, or as published."""
    if budget is not None:
        return codeq_keras.quantize_model(net)
    dead_zone, bits = (0.0, 0.0) if recipe.is_adam else recipe.penalties
    return codeq_keras.quantize_model(
        net,
        codeq_keras.CoDeQConfig(
            bit_width="learned", min_bit_width=2, level_grid="paper"
        ),
        regularizer=codeq_keras.CompressionRegularizer(
            dead_zone_penalty=dead_zone, bit_width_penalty=bits
        ),
    )


def sgd(rate: Any, decay: float) -> keras.optimizers.Optimizer:
    """SGD with PyTorch's decay: unlike Keras's, it goes through momentum."""
    decay = decay / (1 - MOMENTUM)
    return keras.optimizers.SGD(rate, MOMENTUM, weight_decay=decay)


def optimizer(
    recipe: Recipe, num_steps: int, *, is_published: bool
) -> keras.optimizers.Optimizer:
    """Returns the paper's optimizer; the one of the weights if not published.

    As published, the logits have a rate of their own, and under AdamW decays.
    """

    def on_cosine(value: float, decay: float) -> keras.optimizers.Optimizer:
        rate = keras.optimizers.schedules.CosineDecay(value, num_steps)
        make = keras.optimizers.AdamW if recipe.is_adam else sgd
        return make(rate, decay)

    weights = on_cosine(recipe.learning_rate, WEIGHT_DECAY)
    if not is_published:
        return weights
    names = (".*dead_zone_logit.*", ".*bit_width_logit.*")
    logits = {
        name: on_cosine(recipe.logit_rate, penalty if recipe.is_adam else 0.0)
        for name, penalty in zip(names, recipe.penalties, strict=True)
    }
    return keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(weights, logits)
    )
