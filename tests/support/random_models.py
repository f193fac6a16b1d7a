"""Random functional Keras models, described so that they shrink.

`random_models()` draws a `RandomModel`: inputs, up to eight `Step`s, outputs.
`build` makes the Keras model from it, `training_data` inputs and targets.
"""

import dataclasses

import keras
import numpy as np
from hypothesis import strategies as st
from keras import layers
from support.custom_model import Affine, ScaledDense, TokenAndPosition
from support.layer_kinds import KINDS, VOCABULARY, Kind

SIZES = {"vector": (5,), "sequence": (6, 4), "image": (8, 8, 3), "tokens": (6,)}
BATCH = 4
# The number in the name of the first layer: conv_9 and conv_10 have two orders.
FIRST = 8
# String order and natural order differ: p16 < p8 and head_10 < head_9.
INPUT_NAMES = ("p8", "p16", "p32")
OUTPUT_NAMES = ("head_9", "head_10", "head_11", "a")


CUSTOM_OBJECTS = {
    each.__name__: each for each in (Affine, ScaledDense, TokenAndPosition)
}


@dataclasses.dataclass(frozen=True)
class Step:
    """One layer on one tensor, or on two.

    Attributes:
        kind: Key of `KINDS`.
        source: Number of the tensor it reads; the inputs are numbered first.
        other: Number of the second one, of merges and of shared layers.
        frozen: None, "layer", or "nested" for the model around it.
        is_nested: Whether it is in a model of its own.
        is_shared: Whether the layer also reads `other`; the results are added.
        policy: The dtype policy of the layer; None for that of the model.
    """

    kind: str
    source: int = 0
    other: int = 0
    frozen: str | None = None
    is_nested: bool = False
    is_shared: bool = False
    policy: str | None = None


@dataclasses.dataclass(frozen=True)
class RandomModel:
    """A functional model.

    Attributes:
        inputs: The data of each input, keys of `SIZES`.
        steps: The layers, in the order of their calls.
        outputs: Numbers of the tensors that are returned; one may come twice.
        input_structure: "list" or "dict".
        output_structure: "list", "dict" or "nested".
        policy: The global dtype policy.
    """

    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    input_structure: str = "list"
    output_structure: str = "list"
    policy: str = "float32"

    @property
    def kinds(self) -> set[str]:
        """The kinds of its steps."""
        return {step.kind for step in self.steps}


POLICIES = ("mixed_bfloat16", "mixed_float16")
STRUCTURES = ("list", "dict", "nested")
# Each is drawn for one step in four, and shrinks to None or False.
_SELDOM = st.sampled_from([False, False, False, True])
_FROZEN = st.sampled_from([None, None, None, None, "layer", "nested"])


@st.composite
def random_models(draw, *, policies=POLICIES, structures=STRUCTURES):
    """Draws models of 2 to 8 layers and 1 to 3 inputs, some of them unused."""
    inputs = draw(
        st.lists(st.sampled_from(list(SIZES)), min_size=1, max_size=3)
    )
    pool, steps = list(inputs), []
    is_mixed = draw(_SELDOM) and bool(policies)
    for _ in range(draw(st.integers(2, 8))):
        # Mostly the last tensor: networks are deep rather than wide.
        last = len(pool) - 1
        source = last - draw(st.one_of(st.just(0), st.integers(0, last)))
        kinds = [
            name for name, kind in KINDS.items() if kind.reads(pool[source])
        ]
        kind = draw(st.sampled_from(kinds))
        alike = [i for i, data in enumerate(pool) if data == pool[source]]
        policy = None
        if is_mixed and draw(_SELDOM):
            policy = draw(st.sampled_from(policies))
        steps.append(
            Step(
                kind,
                source,
                other=draw(st.sampled_from(alike)),
                frozen=draw(_FROZEN),
                is_nested=draw(_SELDOM),
                is_shared=draw(_SELDOM),
                policy=policy,
            )
        )
        pool.append(KINDS[kind].gives or pool[source])
    computed = range(len(inputs), len(pool))
    others = draw(st.lists(st.sampled_from(computed), max_size=3))
    return RandomModel(
        inputs=tuple(inputs),
        steps=tuple(steps),
        outputs=(computed[-1], *others),
        input_structure=draw(st.sampled_from(["list", "dict"])),
        output_structure=draw(st.sampled_from(structures)),
        policy=draw(st.sampled_from(policies))
        if is_mixed and draw(_SELDOM)
        else "float32",
    )


def build(described: RandomModel) -> keras.Model:
    """Returns the Keras model, of the steps that its outputs need."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    batch = BATCH if "stateful" in described.kinds else None
    tensors = inputs = [
        keras.Input(
            SIZES[data],
            batch_size=batch,
            name=name,
            dtype="int32" if data == "tokens" else "float32",
        )
        for name, data in zip(INPUT_NAMES, described.inputs, strict=False)
    ]
    for number, step in enumerate(described.steps):
        name = f"{step.kind}_{number + FIRST}"
        tensors = [*tensors, _call(step, tensors, name)]
    outputs = [tensors[number] for number in described.outputs]
    if described.input_structure == "dict":
        inputs = {tensor.name: tensor for tensor in inputs}
    return keras.Model(
        inputs,
        _structured(outputs, described.output_structure),
        name="random_model",
    )


def _call(step, tensors, name):
    kind = KINDS[step.kind]
    x, other = tensors[step.source], tensors[step.other]
    if kind.merges:
        return _merged(kind, x, other, name)
    layer = kind.make(
        name=name, **({"dtype": step.policy} if step.policy else {})
    )
    if not isinstance(layer, layers.Layer):
        return layer(x)
    call = kind.call
    if step.is_nested:
        layer, call = _nested(layer, call, x, name), Kind.call
    layer.trainable = step.frozen != "nested"
    y = call(layer, x)
    if step.frozen == "layer":
        inner = layer.layers[-1] if step.is_nested else layer
        inner.trainable = False
    if step.is_shared and other.shape[1:] == x.shape[1:]:
        y = layers.Add()([y, call(layer, other)])
    return y


def _nested(layer, call, x, name):
    """A model of one layer; inner layers have the same name in all of them."""
    inside = keras.Input(batch_shape=x.shape, dtype=x.dtype)
    return keras.Model(inside, call(layer, inside), name=f"nested_{name}")


def _merged(kind, x, other, name):
    """The two in one; one scales the other where their shapes differ."""
    if x.shape == other.shape:
        return kind.make(name=name)([x, other])
    middle = tuple(range(1, len(x.shape) - 1))
    if middle:
        other = keras.ops.mean(other, axis=middle, keepdims=True)
    other = layers.Dense(x.shape[-1], name=f"{name}_to")(other)
    return layers.Multiply(name=name)([x, other])


def _structured(values, structure):
    if structure == "list":
        return values[0] if len(values) == 1 else values
    named = dict(zip(OUTPUT_NAMES, values, strict=False))
    if structure == "nested" and len(values) > 1:
        first, *others = named.items()
        return {"main": dict([first]), "others": [v for _, v in others]}
    return named


def samples(model: keras.Model, number: int = 2 * BATCH) -> list[np.ndarray]:
    """Returns one array of random inputs for each input of a model."""
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, VOCABULARY, (number, *tensor.shape[1:])).astype("int32")
        if tensor.dtype == "int32"
        else rng.normal(size=(number, *tensor.shape[1:])).astype("float32")
        for tensor in model.inputs
    ]


def training_data(model: keras.Model, number: int = 2 * BATCH):
    """Returns random inputs and targets in the structures of a model."""
    rng = np.random.default_rng(1)
    x = keras.tree.pack_sequence_as(model.input, samples(model, number))
    y = keras.tree.map_structure(
        lambda tensor: rng.normal(size=(number, *tensor.shape[1:])),
        model.output,
    )
    return x, y


def by_name(outputs) -> dict[str, np.ndarray]:
    """Returns outputs under the names that a file has for them."""
    if isinstance(outputs, dict):
        return {
            f"{name}{inner}": value
            for name, values in outputs.items()
            for inner, value in _suffixed(values)
        }
    outputs = outputs if isinstance(outputs, list) else [outputs]
    return {f"output_{i}": value for i, value in enumerate(outputs)}


def _suffixed(values):
    if isinstance(values, dict):
        return [(f"/{name}", value) for name, value in values.items()]
    if isinstance(values, list):
        return [(f"/{i}", value) for i, value in enumerate(values)]
    return [("", values)]
