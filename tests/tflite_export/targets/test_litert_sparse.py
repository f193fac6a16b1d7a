"""The target whose zeros become speed, and the graphs that it must refuse."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from support.plain import export_plain

from tflite_export import arm, check
from tflite_export.format.edits import densify
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.sparse import smallest_encoding
from tflite_export.targets.litert import LiteRt
from tflite_export.targets.litert_sparse import padding, topology
from tflite_export.targets.litert_sparse.target import (
    LiteRtSparse,
    require_none,
)
from tflite_export.targets.litert_sparse.zeros import (
    ZeroCount,
    zero_count,
    zero_findings,
)
from tflite_export.weights.reading_back import unequal_weights
from tflite_export.weights.sites import weight_sites

needs_arm = pytest.mark.skipif(
    arm.missing() is not None, reason=str(arm.missing())
)


def pad(x, margin=1):
    return layers.ZeroPadding2D(margin)(x)


def settled(x, layer):
    return layers.ReLU(6.0)(layers.BatchNormalization()(layer(x)))


def entry(x):
    return settled(pad(x), layers.Conv2D(8, 3, strides=2, use_bias=False))


def pooled(x):
    return layers.Dense(5)(layers.GlobalAveragePooling2D()(x))


def network(middle=None, *, first=entry, last=pooled, size=32):
    """A small MobileNet with one thing exchanged."""
    image = keras.Input((size, size, 3), name="image")
    x = settled(first(image), layers.Conv2D(32, 1, use_bias=False))
    x = settled(x, layers.DepthwiseConv2D(3, padding="same"))
    x = settled(x, layers.Conv2D(48, 1, use_bias=False))
    if middle is not None:
        x = middle(x)
    x = settled(x, layers.Conv2D(64, 1, use_bias=False))
    return keras.Model(image, last(x))


def put_on_sparse_grid(model, grid, *, sparsity=0.85):
    rng = np.random.default_rng(0)
    codes = {}
    for variable in model.weights:
        if "kernel" in variable.name:
            values = rng.integers(-7, 8, variable.shape)
            is_pointwise = variable.shape[:2] == (1, 1)
            if is_pointwise or len(variable.shape) == 2:
                values[rng.random(values.shape) < sparsity] = 0
            codes[variable.path] = values.astype(np.int8)
    return grid(model, rng, codes=codes)


def export_sparse(model, grid, folder, *, sparsity=0.85, **options):
    trained = put_on_sparse_grid(model, grid, sparsity=sparsity)
    result = export_plain(
        model,
        trained,
        folder / "model.tflite",
        representative_dataset=None,
        target="litert-sparse",
        **options,
    )
    return trained, result


def squeeze_and_excite(x):
    s = layers.GlobalAveragePooling2D(keepdims=True)(x)
    s = layers.Conv2D(16, 1, activation="relu")(s)
    s = layers.Conv2D(x.shape[-1], 1, activation="sigmoid")(s)
    return layers.Multiply()([x, s])


def everything_allowed(x):
    """Each operator that the proof knows, with strides that need a repair."""
    x = layers.DepthwiseConv2D(3, strides=2, padding="same")(x)
    x = layers.Activation("hard_silu")(x)
    x = squeeze_and_excite(x)
    x = layers.Add()([x, layers.Conv2D(48, 1)(x)])
    x = layers.DepthwiseConv2D(5, strides=2)(pad(x, 2))
    x = layers.LeakyReLU(0.1)(x)
    return layers.DepthwiseConv2D(5, padding="same", activation="relu")(x)


@pytest.fixture(scope="module")
def everything(grid, tmp_path_factory):
    """An exported network: model, trained weights, result."""
    folder = tmp_path_factory.mktemp("sparse")
    model = network(everything_allowed, size=64)
    return model, *export_sparse(model, grid, folder)


def test_trained_codes_are_in_the_file_also_behind_a_repair(everything):
    _, trained, result = everything

    assert result.verification.codes_equal
    assert result.verification.num_tensors == len(trained)
    assert result.verification.max_output_lsb < 1e-5
    assert any(
        "5x5 kernel with 2 zeros on each side" in n for n in result.notes
    )


def test_weights_are_sparse_or_dense_by_size_and_the_notes_say_so(everything):
    *_, result = everything
    file = Flatbuffer(result.path.read_bytes())

    stored = {t.index for t in file.tensors() if t.sparse is not None}
    assert len(stored) == sum(": sparse; " in note for note in result.notes) > 0
    assert any(": int8; sparse would need" in note for note in result.notes)
    assert topology.topology_findings(file) == ()
    assert check(result.path, target="litert-sparse").is_ok


def test_a_changed_code_is_found_in_a_sparse_file(everything):
    _, trained, result = everything
    file = Flatbuffer(result.path.read_bytes())
    path = max(trained, key=lambda p: trained[p].codes.size)
    codes = trained[path].codes.copy()
    flat = codes.reshape(-1)
    flat[np.flatnonzero(flat)[0]] *= -1
    changed = {**trained, path: dataclasses.replace(trained[path], codes=codes)}

    unequal = unequal_weights(
        file, changed, {p: w.codes for p, w in changed.items()}
    )

    assert unequal == [path]


@needs_arm
def test_outputs_on_arm_are_the_models_and_take_fewer_instructions(everything):
    *_, result = everything
    data = result.path.read_bytes()
    file = Flatbuffer(data)
    (image,) = file.inputs().values()
    inputs = {image.index: np.zeros((1, 64, 64, 3), np.float32)}

    sparse = arm.count_instructions(data, inputs)

    assert tuple(result.device.differences) == arm.CPUS
    assert max(result.device.differences.values()) < 1e-5
    assert sparse < 0.6 * num_multiplications(file)


def num_multiplications(file):
    """Of the dense convolutions, each at least half an instruction in float."""
    total = 0
    for site in weight_sites(file):
        output = file.tensor(0, site.operator.outputs[0]).shape
        per_position = site.slot.codes.size
        total += int(np.prod(output[1:-1], dtype=int)) * per_position
    return total


REFUSED = {
    "depthwise_stride_2_valid": (
        {"middle": lambda x: layers.DepthwiseConv2D(3, strides=2)(x)},
        r"DEPTHWISE_CONV_2D .* stride 2x2.*padding VALID",
    ),
    "depthwise_5x5_stride_2_same": (
        {
            "middle": lambda x: layers.DepthwiseConv2D(
                5, strides=2, padding="same"
            )(x)
        },
        r"DEPTHWISE_CONV_2D .* kernel of 5x5, stride 2x2.*padding SAME",
    ),
    "depthwise_7x7": (
        {"middle": lambda x: layers.DepthwiseConv2D(7, padding="same")(x)},
        r"DEPTHWISE_CONV_2D .* kernel of 7x7",
    ),
    "dilated_depthwise": (
        {
            "middle": lambda x: layers.DepthwiseConv2D(
                3, padding="same", dilation_rate=2
            )(x)
        },
        r"DEPTHWISE_CONV_2D|SPACE_TO_BATCH_ND",
    ),
    "depth_multiplier": (
        {
            "middle": lambda x: layers.DepthwiseConv2D(
                3, padding="same", depth_multiplier=2
            )(x)
        },
        r"DEPTHWISE_CONV_2D .* depth multiplier 2",
    ),
    "conv_3x3_in_the_middle": (
        {"middle": lambda x: layers.Conv2D(48, 3, padding="same")(x)},
        r"CONV_2D .* is a 3x3 convolution behind the entry",
    ),
    "max_pooling": (
        {"middle": lambda x: layers.MaxPooling2D(2)(x)},
        r"MAX_POOL_2D .* knows no CHW layout",
    ),
    "grouped_1x1": (
        {"middle": lambda x: layers.Conv2D(48, 1, groups=4)(x)},
        r"CONV_2D .* 1x1 convolution of 4 groups",
    ),
    "stride_2_1x1": (
        {"middle": lambda x: layers.Conv2D(48, 1, strides=2)(x)},
        r"CONV_2D .* 1x1 convolution of stride 2x2",
    ),
    "unfused_batch_norm": (
        {
            "middle": lambda x: layers.BatchNormalization()(
                layers.Add()([x, layers.Conv2D(48, 1)(x)])
            )
        },
        r"(MUL|ADD) .* BatchNormalization",
    ),
    "concatenation": (
        {"middle": lambda x: layers.Concatenate()([x, x])},
        r"CONCATENATION .* knows no CHW layout",
    ),
    "relu_of_its_own": (
        {"middle": lambda x: layers.Add()([layers.ReLU()(x), x])},
        r"RELU .* stands alone",
    ),
    "same_entry": (
        {
            "first": lambda x: layers.Conv2D(
                8, 3, strides=2, padding="same", activation="relu"
            )(x)
        },
        r"CONV_2D .* not the entry .* padding SAME.*cannot be repaired",
    ),
    "unsymmetric_entry": (
        {"first": lambda x: layers.Conv2D(8, 3, 2)(pad(x, ((1, 0), (1, 0))))},
        r"not the entry .* zeros \(1, 0, 1, 0\)",
    ),
    "keepdims_head": (
        {
            "last": lambda x: layers.Conv2D(5, 1)(
                layers.GlobalAveragePooling2D(keepdims=True)(x)
            )
        },
        r"output .* leaves the network without a global pooling",
    ),
    "no_pooling": (
        {"last": lambda x: x},
        r"output .* leaves the network without a global pooling",
    ),
    "average_pooling": (
        {"last": lambda x: layers.Flatten()(layers.AveragePooling2D(16)(x))},
        r"AVERAGE_POOL_2D .* knows no CHW layout",
    ),
}


def convert_here(model):
    """Faster than the exporter's child process, which must start first."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    return Flatbuffer(converter.convert())


@pytest.mark.parametrize("name", REFUSED)
def test_graph_that_breaks_one_rule_is_refused(name):
    options, message = REFUSED[name]
    file = convert_here(network(**options))
    padding.pad_symmetrically(file)

    findings = topology.topology_findings(file)

    with pytest.raises(ValueError, match=message):
        require_none(findings)


def test_refused_graph_is_not_written(grid, tmp_path):
    model = network(lambda x: layers.MaxPooling2D(2)(x))

    with pytest.raises(ValueError, match=r"MAX_POOL_2D .* use Conv2D of 1x1"):
        export_sparse(model, grid, tmp_path)
    assert not list(tmp_path.iterdir())


def test_same_padding_of_odd_images_is_symmetric_and_only_spelled_out():
    file = convert_here(
        network(
            lambda x: layers.DepthwiseConv2D(3, strides=2, padding="same")(x),
            first=lambda x: settled(x, layers.Conv2D(8, 3, 2, padding="same")),
            size=33,
        )
    )

    notes = padding.pad_symmetrically(file)

    assert len(notes) == 2
    assert all("is 1 zeros on each side in the file" in note for note in notes)
    assert topology.topology_findings(file) == ()


@pytest.mark.parametrize(
    ("counts", "is_enough"),
    [
        ((67, 100, 7, 10), True),
        ((66, 100, 9, 10), False),
        ((67, 100, 0, 10), False),
    ],
    ids=["both", "without_dense", "with_dense"],
)
def test_two_thirds_of_zeros_are_needed_with_and_without_dense(
    counts, is_enough
):
    findings = zero_findings(ZeroCount(*counts))

    assert (findings == ()) == is_enough


def test_check_says_before_training_how_many_zeros_are_needed():
    report = check(network(), target="litert-sparse")

    assert report.is_ok
    assert "more than 66.7% of the weights of all 1x1" in str(report)


def test_zeros_are_counted_with_and_without_the_dense_layers(everything):
    *_, result = everything

    count = zero_count(Flatbuffer(result.path.read_bytes()))

    # 8x32 + 32x48 + 48x16 + 16x48 + 48x48 + 48x64
    assert count.num_weights == 8 * 32 + 32 * 48 + 2 * 48 * 16 + 48 * (48 + 64)
    assert count.num_dense_weights == 64 * 5
    assert count.pointwise == pytest.approx(0.85 + 0.15 / 15, abs=0.02)


def test_other_storages_are_refused(grid, tmp_path):
    import codeq_keras
    from tflite_export import export

    qmodel = codeq_keras.quantize_model(network())
    with pytest.raises(ValueError, match="must be 'auto'"):
        export(
            qmodel,
            tmp_path / "model.tflite",
            target="litert-sparse",
            weight_storage="int8",
        )


def test_damaged_sparse_files_are_read_or_refused(everything):
    *_, result = everything
    data = result.path.read_bytes()
    rng = np.random.default_rng(0)
    num_refused = 0
    for num_tries in range(100):
        damaged = bytearray(data)
        for position in rng.integers(len(data), size=1 + num_tries % 4):
            damaged[position] ^= 1 << int(rng.integers(8))
        try:
            str(LiteRtSparse().check(bytes(damaged)))
        except ValueError:
            num_refused += 1

    assert 0 < num_refused < 100


def test_litert_notes_a_sparse_file_that_is_not_proven_on_arm():
    file = convert_here(network(lambda x: layers.MaxPooling2D(2)(x)))
    index = next(
        operator.inputs[1]
        for operator in file.operators[::-1]
        if operator.name == "CONV_2D"
    )
    weights = file.tensor(0, index).data
    densify(file, 0, index, smallest_encoding(np.float32(weights > 0)))

    report = LiteRt().check(file.to_bytes())

    # Such files are in production on phones: `check` cannot say "blocked".
    assert "MAX_POOL_2D" in str(report)
    assert report.is_ok
