"""A trained network and some samples, without any training."""

import itertools

import keras
import numpy as np
import pytest

import codeq_keras
from codeq_keras import CoDeQConfig, compress_post_training, costs

L = keras.layers
FOUR_BITS = CoDeQConfig(level_grid="uniform", axis=-1)


@pytest.fixture(scope="module")
def samples():
    """Smooth images, whose pixels tell of each other."""
    noise = np.random.default_rng(0).normal(size=(128, 14, 14, 3))
    smooth = sum(
        np.roll(noise, (i, j), (1, 2))
        for i, j in itertools.product(range(3), range(3))
    )
    return smooth.astype("float32")


@pytest.fixture(scope="module")
def net():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((14, 14, 3)),
            L.Conv2D(16, 3, use_bias=False, name="conv"),
            L.BatchNormalization(name="norm"),
            L.ReLU(),
            L.DepthwiseConv2D(3, name="depthwise"),
            L.Conv2D(24, 1, activation="relu", name="point"),
            L.GlobalAveragePooling2D(),
            L.Dense(10, name="head"),
        ]
    )
    values = np.random.default_rng(1)
    for variable in model.get_layer("norm").variables:
        variable.assign(values.uniform(0.5, 1.5, variable.shape))
    return model


def lost(net, qmodel, samples):
    """The error of the outputs, relative to their variance."""
    before = net.predict(samples, verbose=0)
    after = qmodel.predict(samples, verbose=0)
    return float(np.mean((after - before) ** 2) / before.var())


def measured(name, qmodel):
    return float(costs.MEASURES[name](costs.deployed_costs(qmodel.kernels)))


def test_rounding_keeps_outputs_better_than_the_nearest_level(net, samples):
    nearest = codeq_keras.quantize_model(
        net, CoDeQConfig(level_grid="uniform", axis=-1, range_quantile=1.0)
    )
    fitted = compress_post_training(net, samples, verbose=0)
    assert lost(net, fitted, samples) < 0.3 * lost(net, nearest, samples)


@pytest.mark.parametrize("config", [None, CoDeQConfig(), CoDeQConfig(2)])
@pytest.mark.parametrize("name", ["relative_bops", "sparsity", "size_bytes"])
def test_budget_is_met_and_used(net, samples, config, name):
    rounded = compress_post_training(net, samples, config, verbose=0)
    fixed = 4 * sum(k.quantizer.num_scales for k in rounded.quantized_kernels)
    fixed = fixed if name == "size_bytes" else 0
    limit = fixed + 0.5 * (measured(name, rounded) - fixed)
    value = 1 - limit if name == "sparsity" else limit
    budget = {name: value}
    qmodel = compress_post_training(net, samples, config, verbose=0, **budget)
    # At 2 bits a bound moves many weights at once.
    assert 0.9 * limit <= measured(name, qmodel) <= limit


@pytest.mark.parametrize(
    ("budget", "bits"),
    [
        ({}, 4),
        ({"relative_bops": 0.07}, 4),
        ({"relative_bops": 0.05}, 3),
        ({"sparsity": 0.8}, 4),
        ({"bits_per_weight": 1.5}, 3),
        ({"size_bytes": 690}, 4),
        ({"size_bytes": 600}, 3),
    ],
)
def test_bits_follow_from_the_budget(net, samples, budget, bits):
    qmodel = compress_post_training(net, samples, verbose=0, **budget)
    found = {
        w.bit_width for w in codeq_keras.quantized_weights(qmodel).values()
    }
    assert found == {bits}


def test_zeros_are_chosen_by_what_they_read(samples):
    """A weight on a silent input goes first, however large it is."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), L.Dense(6, name="head")])
    x = samples.reshape(len(samples), -1)[:, :8].copy()
    x[:, 3] *= 0.001
    model.get_layer("head").kernel.assign(
        keras.ops.ones((8, 6)) * np.where(np.arange(8) == 3, 5, 1)[:, None]
    )
    qmodel = compress_post_training(model, x, sparsity=1 / 8, verbose=0)
    [weight] = codeq_keras.quantized_weights(qmodel).values()
    zeros = weight.codes == 0
    assert zeros[3].all()
    assert zeros.sum() == 6


def test_a_bias_takes_over_the_mean(samples):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((27,)), L.Dense(6, name="head")])
    x = samples.reshape(len(samples), -1)[:, :27] + 3.0
    qmodel = compress_post_training(model, x, sparsity=0.7, verbose=0)
    before, after = (m.predict(x, verbose=0).mean(0) for m in (model, qmodel))
    np.testing.assert_allclose(after, before, atol=1e-4)


def test_batch_norm_moves_by_what_the_samples_say(net, samples):
    """8 bits change nearly nothing: the statistics stay as trained."""
    config = CoDeQConfig(bit_width=8, level_grid="uniform", axis=-1)
    qmodel = compress_post_training(net, samples, config, verbose=0)
    for name in ("moving_mean", "moving_variance"):
        before, after = (
            getattr(model.get_layer("norm"), name).numpy()
            for model in (net, qmodel.latent_model)
        )
        np.testing.assert_allclose(after, before, atol=0.02, rtol=0.02)
    stripped = compress_post_training(net, samples, sparsity=0.8, verbose=0)
    moved = stripped.latent_model.get_layer("norm").moving_variance.numpy()
    trained = net.get_layer("norm").moving_variance.numpy()
    assert np.abs(moved - trained).max() > 0.05


def test_the_model_is_not_changed(net, samples):
    before = [v.numpy() for v in net.variables]
    compress_post_training(net, samples, sparsity=0.5, verbose=0)
    for old, variable in zip(before, net.variables, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old)


def test_saved_files_have_the_same_codes(net, samples, tmp_path):
    qmodel = compress_post_training(
        net, samples, activation_bit_width=8, relative_bops=0.05, verbose=0
    )
    assert None not in codeq_keras.activation_ranges(qmodel).values()
    qmodel.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    before = codeq_keras.quantized_weights(qmodel)
    after = codeq_keras.quantized_weights(loaded)
    for path, weight in before.items():
        np.testing.assert_array_equal(after[path].codes, weight.codes)
    np.testing.assert_array_equal(
        loaded.predict(samples, verbose=0), qmodel.predict(samples, verbose=0)
    )


@pytest.mark.parametrize("grid", ["uniform", "dead_zone"])
def test_a_training_goes_on_from_the_codes_and_zeros(net, samples, grid):
    config = CoDeQConfig(level_grid=grid, axis=-1)
    qmodel = compress_post_training(
        net, samples, config, sparsity=0.6, verbose=0
    )
    before = codeq_keras.quantized_weights(qmodel)
    zeros = codeq_keras.report(qmodel).sparsity
    qmodel.compile(keras.optimizers.SGD(1e-5), "mse")
    target = net.predict(samples, verbose=0)
    qmodel.fit(samples, target, epochs=1, verbose=0)
    after = codeq_keras.quantized_weights(qmodel)
    same = [np.mean(after[p].codes == before[p].codes) for p in before]
    # The first refresh of a bound moves a scale whose largest level no weight
    # has: all its codes.
    assert np.mean(same) > 0.9
    assert codeq_keras.report(qmodel).sparsity == pytest.approx(zeros, abs=0.01)


def test_two_of_four_is_kept(net, samples):
    config = CoDeQConfig(level_grid="uniform", axis=-1, sparsity_pattern="2:4")
    with pytest.warns(UserWarning, match="groups of 4 input channels"):
        qmodel = compress_post_training(net, samples, config, verbose=0)
    codes = codeq_keras.quantized_weights(qmodel)["point/kernel"].codes
    groups = codes.reshape(4, 4, 24)
    assert np.all(np.count_nonzero(groups, axis=1) <= 2)


def test_overrides_stay_in_float(net, samples):
    qmodel = compress_post_training(
        net, samples, sparsity=0.5, overrides={"head": None}, verbose=0
    )
    [head] = [k for k in qmodel.kernels if k.path == "head/kernel"]
    np.testing.assert_array_equal(
        head.variable.numpy(), net.get_layer("head").kernel.numpy()
    )


def test_samples_of_all_forms_give_the_same(net, samples):
    batches = [samples[i : i + 32] for i in range(0, 128, 32)]

    def endless():
        while True:
            yield from batches

    wanted = compress_post_training(net, samples, sparsity=0.5, verbose=0)
    for form in (
        batches,
        lambda: batches,
        [(b, np.zeros(32)) for b in batches],
    ):
        found = compress_post_training(net, form, sparsity=0.5, verbose=0)
        np.testing.assert_array_equal(
            found.predict(samples, verbose=0),
            wanted.predict(samples, verbose=0),
        )
    compress_post_training(net, endless(), sparsity=0.5, verbose=0)


@pytest.mark.filterwarnings("error::UserWarning")
def test_split_layers_read_the_samples(samples):
    """The two kernels of a separable convolution are two calls."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((14, 14, 3)),
            L.SeparableConv2D(8, 3, name="separable"),
            L.Conv2DTranspose(4, 2, strides=2, activation="sigmoid"),
        ]
    )
    qmodel = compress_post_training(model, samples, verbose=0)
    assert lost(model, qmodel, samples) < 0.01


def test_kernels_whose_inputs_are_not_known_are_named(samples):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((14, 42)), L.LSTM(8, name="lstm"), L.Dense(3)]
    )
    x = samples.reshape(128, 14, 42)
    with pytest.warns(UserWarning, match="'lstm/cell/recurrent_kernel'"):
        qmodel = compress_post_training(model, x, verbose=0)
    assert lost(model, qmodel, x) < 0.05


def test_kernels_of_many_columns_are_named(samples, monkeypatch):
    monkeypatch.setattr("codeq_keras.post_training.problems.MAX_COLUMNS", 20)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((27,)), L.Dense(6, name="wide")])
    x = samples.reshape(len(samples), -1)[:, :27]
    with pytest.warns(UserWarning, match="'wide/kernel', or one sums over"):
        qmodel = compress_post_training(model, x, verbose=0)
    assert lost(model, qmodel, x) < 0.02


def test_bops_need_a_fixed_input_size(samples):
    model = keras.Sequential([keras.Input((None, None, 3)), L.Conv2D(4, 3)])
    with pytest.raises(ValueError, match="not fixed for"):
        compress_post_training(model, samples, relative_bops=0.1, verbose=0)
    compress_post_training(model, samples, sparsity=0.5, verbose=0)


def test_one_scale_for_taps_of_a_transposed_convolution(samples):
    """Rows of several taps share the scale of their output channel."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((14, 14, 3)), L.Conv2DTranspose(4, 3, name="up")]
    )
    qmodel = compress_post_training(model, samples, verbose=0)
    [weight] = codeq_keras.quantized_weights(qmodel).values()
    assert weight.scale.shape == (1, 1, 4, 1)
    assert lost(model, qmodel, samples) < 0.01


# --- max_drop ----------------------------------------------------------------


def test_max_drop_finds_the_most_zeros(net, samples, capsys):
    wanted = net.predict(samples, verbose=0)

    def score(model):
        return -float(
            np.mean((model.predict(samples, verbose=0) - wanted) ** 2)
        )

    drop = 0.1 * float(wanted.var())
    qmodel = compress_post_training(
        net, samples, max_drop=drop, evaluate=score, verbose=1
    )
    assert -score(qmodel) <= drop
    assert codeq_keras.report(qmodel).sparsity > 0.3
    table = capsys.readouterr().out
    assert table.count("%") >= 7
    assert "score" in table


def test_a_drop_that_rounding_exceeds_is_refused(net, samples):
    with pytest.raises(ValueError, match="take more bits"):
        compress_post_training(
            net,
            samples,
            CoDeQConfig(2),
            max_drop=0.0,
            evaluate=lambda m: float(m is net),
            verbose=0,
        )


# --- Bad input ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sparsity": 0.5, "relative_bops": 0.1}, "At most one of"),
        ({"sparsity": 1.5}, "`sparsity` must be"),
        ({"relative_bops": 0}, "`relative_bops` must be"),
        ({"size_bytes": 10}, "`size_bytes` reaches"),
        ({"max_drop": 0.01}, "belong together"),
        ({"evaluate": len}, "belong together"),
        ({"max_drop": 0.01, "evaluate": 3}, "`evaluate` must be a function"),
        (
            {"max_drop": 0.01, "evaluate": len, "sparsity": 0.5},
            "Leave one out",
        ),
        (
            {"max_drop": 0.01, "evaluate": lambda model: None},
            "must return a finite number",
        ),
        (
            {"max_drop": 0.01, "evaluate": lambda model: float("nan")},
            "must return a finite number",
        ),
        ({"config": CoDeQConfig("learned")}, "Name a number"),
        ({"config": CoDeQConfig(level_grid="paper")}, "Use 'uniform'"),
        ({"config": CoDeQConfig(sparsity_block=2)}, "needs a training"),
        ({"overrides": {"head": CoDeQConfig("learned")}}, "Name a number"),
        ({"config": 4}, "must be a CoDeQConfig"),
    ],
)
def test_wrong_arguments_are_refused(net, samples, arguments, words):
    with pytest.raises(ValueError, match=words):
        compress_post_training(net, samples, verbose=0, **arguments)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (lambda x: x[:8], "at least 32 samples, better 500"),
        (lambda x: np.zeros_like(x), "must differ"),
        (lambda x: x[..., :2], "must have the shapes"),
        (lambda x: np.where(x > 4, np.nan, x), "must be finite"),
        (lambda x: iter(()), "at least one sample"),
    ],
)
def test_unfit_samples_are_refused(net, samples, bad, words):
    with pytest.raises(ValueError, match=words):
        compress_post_training(net, bad(samples), verbose=0)
