"""What `fit` does for BatchNorm by itself, for data of every form."""

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

import codeq_keras
from codeq_keras.training.batch_norm import with_reestimation
from codeq_keras.training.batches import MAX_BATCHES, few_batches

BATCH = 16


@pytest.fixture
def qmodel(cnn):
    qmodel = codeq_keras.quantize_model(cnn)
    qmodel.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    return qmodel


def statistics(model):
    norm = model.latent_model.get_layer("norm")
    variables = (norm.moving_mean, norm.moving_variance)
    return np.stack([keras.ops.convert_to_numpy(v) for v in variables])


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x) // BATCH

    def __getitem__(self, index):
        rows = slice(index * BATCH, (index + 1) * BATCH)
        return self.x[rows], self.y[rows]


def tf_data(x, y):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)


def generator(x, y):
    for start in range(0, len(x), BATCH):
        yield x[start : start + BATCH], y[start : start + BATCH]


FORMS = {
    "arrays": lambda x, y: ({"x": x, "y": y, "batch_size": BATCH}),
    "PyDataset": lambda x, y: {"x": Batches(x, y)},
    "tf.data": lambda x, y: {"x": tf_data(x, y), "shuffle": False},
    "generator": lambda x, y: {
        "x": generator(x, y),
        "steps_per_epoch": 4,
        "shuffle": False,
    },
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_fit_leaves_statistics_of_the_deployed_weights(qmodel, data, form):
    qmodel.fit(**form(*data), verbose=0)

    left = statistics(qmodel)
    codeq_keras.reestimate_batch_norm(qmodel, Batches(*data))
    # Arrays are shuffled, so that variances are of other batches.
    is_shuffled = "batch_size" in form(*data)
    tolerance = 0.1 if is_shuffled else 1e-5
    np.testing.assert_allclose(left, statistics(qmodel), rtol=tolerance)


def test_inputs_may_be_a_dict(data):
    inputs = {name: keras.Input((8, 8, 3), name=name) for name in "ab"}
    x = keras.layers.Add()(list(inputs.values()))
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Dense(3)(keras.layers.Flatten()(x))
    qmodel = codeq_keras.quantize_model(keras.Model(inputs, x))
    qmodel.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    images = data[0]

    qmodel.fit({"b": 2 * images, "a": images}, data[1], verbose=0)

    mean = 3 * images.mean((0, 1, 2))
    # Sums of float32, in batches.
    np.testing.assert_allclose(statistics(qmodel)[0], mean, atol=1e-5)


def test_fit_leaves_moving_averages_where_told_to(qmodel, data):
    qmodel.fit(*data, verbose=0, reestimate_batch_norm=False)

    left = statistics(qmodel)
    codeq_keras.reestimate_batch_norm(qmodel, [data[0]])
    # Momentum 0.99 over two steps: they are still near to the initial ones.
    assert np.abs(left - statistics(qmodel)).max() > 0.1


def trained(cnn, data, flag):
    """A model of four epochs with validation, and its history."""
    keras.utils.set_random_seed(0)
    qmodel = codeq_keras.quantize_model(cnn)
    qmodel.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    history = qmodel.fit(
        *data,
        epochs=4,
        verbose=0,
        validation_data=data,
        reestimate_batch_norm=flag,
    )
    return qmodel, history.history


def test_training_is_not_changed(cnn, data):
    losses = []
    for flag in (False, True):
        qmodel, history = trained(cnn, data, flag)
        losses.append(history["loss"])
        if flag:
            val_loss = history["val_loss"][-1]
            evaluated = qmodel.evaluate(*data, verbose=0)
            # The same weights and statistics; the sums run in batches.
            assert val_loss == pytest.approx(evaluated, rel=1e-5)

    assert losses[0] == losses[1]


def test_only_validations_of_the_second_half_are_changed(cnn, data):
    values = [trained(cnn, data, flag)[1]["val_loss"] for flag in (False, True)]

    is_same = [a == b for a, b in zip(*values, strict=True)]
    assert is_same == [True, False, False, False]


def test_no_batch_of_a_generator_is_drawn_twice(qmodel, data):
    drawn = []

    def counted():
        for batch in generator(*data):
            drawn.append(1)
            yield batch

    qmodel.fit(counted(), steps_per_epoch=4, shuffle=False, verbose=0)

    assert len(drawn) == len(data[0]) // BATCH


def test_validation_split_leaves_no_trace(qmodel, data):
    x, y = data
    x = np.concatenate([x[:48], x[48:] + 1000])

    qmodel.fit(x, y, batch_size=BATCH, validation_split=0.25, verbose=0)

    assert np.abs(statistics(qmodel)).max() < 100


def test_validation_split_may_be_none_as_in_keras(qmodel, data):
    qmodel.fit(*data, batch_size=BATCH, validation_split=None, verbose=0)

    assert np.abs(statistics(qmodel)).max() > 0


def test_frozen_batch_norm_keeps_its_statistics(cnn, data):
    cnn.get_layer("norm").trainable = False
    qmodel = codeq_keras.quantize_model(cnn)
    qmodel.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    before = statistics(qmodel)

    qmodel.fit(*data, verbose=0)

    np.testing.assert_array_equal(statistics(qmodel), before)
    assert with_reestimation(qmodel, data[0], [], None, 0.0) == (data[0], [])


class Frozen(keras.layers.Layer):
    """Calls a BatchNorm in inference mode whatever the model does."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = keras.layers.BatchNormalization(name="norm")

    def build(self, shape):
        self.norm.build(shape)

    def call(self, x):
        return self.norm(x, training=False)


def test_batch_norm_in_inference_mode_keeps_its_statistics(data):
    inputs = keras.Input((8, 8, 3))
    x = Frozen(name="frozen")(keras.layers.Conv2D(4, 3)(inputs))
    x = keras.layers.Dense(3)(keras.layers.Flatten()(x))
    qmodel = codeq_keras.quantize_model(keras.Model(inputs, x))
    norm = qmodel.latent_model.get_layer("frozen").norm
    thirds = np.full(4, 1 / 3, "float32")  # Sums of them round in float32.
    norm.moving_mean.assign(thirds)
    qmodel.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))

    qmodel.fit(*data, batch_size=7, verbose=0)

    left = keras.ops.convert_to_numpy(norm.moving_mean)
    np.testing.assert_array_equal(left, thirds)


def test_callback_of_the_user_is_not_done_twice(qmodel, data):
    x = data[0]
    own = codeq_keras.BatchNormReestimation([x + 5])

    qmodel.fit(*data, verbose=0, callbacks=[own])

    left = statistics(qmodel)
    codeq_keras.reestimate_batch_norm(qmodel, [x + 5])
    np.testing.assert_array_equal(left, statistics(qmodel))


def test_samples_of_small_batches_weigh_as_much_as_others(qmodel, data):
    x = data[0][:33]
    codeq_keras.reestimate_batch_norm(qmodel, [x[:32], x[32:]])
    left = statistics(qmodel)

    codeq_keras.reestimate_batch_norm(qmodel, [x])

    mean, variance = statistics(qmodel)
    np.testing.assert_allclose(left[0], mean, atol=1e-5)
    # Without what the means of the batches differ by.
    np.testing.assert_allclose(left[1], variance, rtol=0.1)


def test_statistics_are_of_rounded_activations(cnn, data):
    """A range that clips the input at 1 is what the convolution sees."""
    qmodel = codeq_keras.quantize_model(cnn, activation_bit_width=8)
    [first, *_] = qmodel.activation_quantizers
    for variable, value in zip(first.variables, (-1, 1, 1), strict=True):
        variable.assign(value)

    codeq_keras.reestimate_batch_norm(qmodel, [data[0]])
    left = statistics(qmodel)

    first.low.assign(-100)
    first.high.assign(100)
    codeq_keras.reestimate_batch_norm(qmodel, [np.clip(data[0], -1, 1)])
    # A step of the wide range is 0.8.
    np.testing.assert_allclose(left, statistics(qmodel), atol=0.3)
    codeq_keras.reestimate_batch_norm(qmodel, [data[0]])
    assert np.abs(left - statistics(qmodel)).max() > 0.5


def test_few_batches_of_many_rows_are_bounded_and_of_all_kinds():
    x = {"a": np.arange(10_000)[:, None], "b": np.zeros((10_000, 2))}

    _, batches = few_batches(x, batch_size=8, validation_split=0.0)

    drawn = batches()
    assert len(drawn) == MAX_BATCHES
    assert drawn[0]["b"].shape == (8, 2)
    # Of a sorted array, too.
    assert np.ptp(np.concatenate([batch["a"] for batch in drawn])) > 9_000


# --- The accuracy that it is worth ------------------------------------------


def digits():
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x = (images[order] / 16).reshape(-1, 8, 8, 1).astype("float32")
    return (x[:1400], labels[order][:1400]), (x[1400:], labels[order][1400:])


def digits_cnn():
    layers = keras.layers
    blocks = [
        layer
        for filters in (16, 32)
        for layer in (
            layers.Conv2D(filters, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
        )
    ]
    head = [layers.GlobalAveragePooling2D(), layers.Dense(10)]
    return keras.Sequential([keras.Input((8, 8, 1)), *blocks, *head])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_plain_road_keeps_the_accuracy(seed):
    train, test = digits()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    keras.utils.set_random_seed(seed)
    model = digits_cnn()
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    model.fit(*train, epochs=16, verbose=0)
    codeq_keras.reestimate_batch_norm(model, [train[0]])
    accuracy = {"float": model.evaluate(*test, verbose=0)[1]}

    for flag in (False, True):
        keras.utils.set_random_seed(seed)
        qmodel = codeq_keras.quantize_model(model, activation_bit_width=8)
        qmodel.compile("adam", loss, metrics=["accuracy"])
        budget = codeq_keras.CompressionBudget(relative_bops=0.03)
        # 44 steps an epoch, 176 in all, at a constant rate.
        qmodel.fit(
            *train,
            epochs=4,
            verbose=0,
            callbacks=[budget],
            reestimate_batch_norm=flag,
        )
        accuracy[flag] = qmodel.evaluate(*test, verbose=0)[1]

    # An image is 0.0025; 4 epochs at a constant rate cost 0.01 to 0.025.
    assert accuracy[True] > accuracy["float"] - 0.03, accuracy
    assert accuracy[True] > accuracy[False] + 0.02, accuracy
