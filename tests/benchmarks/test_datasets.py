import gzip

import numpy as np
import pytest
import tensorflow_datasets as tfds
from datasets import (
    ImageBatches,
    fashion_mnist,
    keywords,
    load,
    load_batches,
    machine_sounds,
    shapes,
)
from datasets.mfcc import mfcc
from harness.workload import reconstruction_auc
from sklearn.linear_model import RidgeClassifier


def _arrays(pairs):
    x, y = zip(*pairs, strict=True)
    return np.stack(x), np.array(y)


def _shapes(split, count, image_size=32):
    return _arrays(shapes.generate(split, count, image_size=image_size))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The synthetic data sets, small, where the loader finds them."""
    folder = tmp_path_factory.mktemp("datasets")
    counts = {"train": 7, "validation": 5, "test": 3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes.Shapes.BUILDER_CONFIGS[0], "num_images", counts)
        patch.setattr(
            keywords.Keywords.BUILDER_CONFIGS[0], "num_utterances", counts
        )
        patch.setattr(
            machine_sounds.MachineSounds.BUILDER_CONFIGS[0],
            "num_windows",
            counts,
        )
        for name in ("shapes/32", "keywords", "machine_sounds"):
            builder = tfds.builder(
                name, data_dir=folder, file_format="array_record"
            )
            builder.download_and_prepare()
    return folder


@pytest.mark.parametrize(
    ("name", "shape"),
    [("shapes", (32, 32, 3)), ("keywords", (49, 10, 1))],
)
def test_load_returns_arrays_of_every_split(prepared, name, shape):
    for split, count in (("train", 7), ("validation", 5), ("test", 3)):
        x, y = load(name, split, data_dir=prepared)

        assert x.shape == (count, *shape)
        assert x.dtype == np.float32
        assert y.shape == (count,)
        assert y.dtype == np.int64


def test_load_returns_the_images_that_were_drawn(prepared):
    drawn, labels = _shapes("validation", 5)

    x, y = load("shapes", "validation", data_dir=prepared)

    np.testing.assert_array_equal(x, drawn.astype("float32") / 127.5 - 1.0)
    np.testing.assert_array_equal(y, labels)


@pytest.mark.parametrize("name", ["shapes", "keywords"])
def test_a_count_takes_the_first_examples_without_preparing(prepared, name):
    whole, labels = load(name, "train", data_dir=prepared)

    x, y = load(name, "train", 4, data_dir="/nothing/here")

    np.testing.assert_array_equal(x, whole[:4])
    np.testing.assert_array_equal(y, labels[:4])
    assert (x.dtype, y.dtype) == (whole.dtype, labels.dtype)


def test_load_returns_the_utterances_that_were_made(prepared):
    made, labels = _arrays(keywords.generate("test", 3))

    x, y = load("keywords", "test", data_dir=prepared)

    np.testing.assert_array_equal(x, made)
    np.testing.assert_array_equal(y, labels)


@pytest.mark.parametrize(
    ("generate", "kwargs"),
    [
        (shapes.generate, {"image_size": 32}),
        (keywords.generate, {}),
        (machine_sounds.generate, {}),
    ],
    ids=["shapes", "keywords", "machine_sounds"],
)
def test_generation_is_deterministic_and_differs_between_splits(
    generate, kwargs
):
    first, labels = _arrays(generate("train", 20, **kwargs))
    again, labels_again = _arrays(generate("train", 20, **kwargs))
    other, _ = _arrays(generate("test", 20, **kwargs))

    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(labels, labels_again)
    assert not np.array_equal(first, other)


def test_a_longer_split_begins_with_a_shorter_one():
    long, _ = _arrays(keywords.generate("train", 501))
    short, _ = _arrays(keywords.generate("train", 499))

    np.testing.assert_array_equal(long[:499], short)


def test_shapes_come_in_other_sizes():
    images, labels = _shapes("train", 10, image_size=96)

    assert images.shape == (10, 96, 96, 3)
    assert images.dtype == np.uint8
    assert set(labels) <= set(range(10))


def test_split_sizes_of_the_builders():
    sizes = {c.name: c.num_images for c in shapes.Shapes.BUILDER_CONFIGS}

    assert sizes["32"] == {"train": 20_000, "validation": 5_000, "test": 10_000}
    assert sizes["96"] == {"train": 6_000, "validation": 1_500, "test": 3_000}
    assert tfds.builder_cls("keywords").BUILDER_CONFIGS[0].num_utterances == {
        "train": 20_000,
        "validation": 5_000,
        "test": 10_000,
    }


def test_a_linear_model_does_not_solve_the_shapes():
    x, y = _shapes("train", 1500)
    x_test, y_test = _shapes("test", 500)
    model = RidgeClassifier(alpha=1e6).fit(x.reshape(1500, -1), y)

    # Chance is 10 %; one standard error of 500 images is 1.3 points.
    assert model.score(x_test.reshape(500, -1), y_test) < 0.2


def test_a_linear_model_does_not_solve_the_keywords():
    x, y = _arrays(keywords.generate("train", 2000))
    x_test, y_test = _arrays(keywords.generate("test", 500))
    model = RidgeClassifier(alpha=100.0).fit(x.reshape(2000, -1), y)

    # Chance is 8 %. A DS-CNN reaches more than 90 %.
    assert model.score(x_test.reshape(500, -1), y_test) < 0.7


def test_builder_of_machine_sounds_keeps_what_was_made(prepared):
    made, labels = _arrays(machine_sounds.generate("test", 3))
    builder = tfds.builder("machine_sounds", data_dir=prepared)

    examples = list(builder.as_data_source("test"))

    assert made.shape == (3, 640)
    assert made.dtype == np.float32
    np.testing.assert_array_equal([e["log_mel"] for e in examples], made)
    assert [e["label"] for e in examples] == labels.tolist()


def test_anomalies_are_in_the_other_splits_and_not_found_by_distance():
    x, y = _arrays(machine_sounds.generate("train", 2000))
    x_test, y_test = _arrays(machine_sounds.generate("test", 2000))

    assert not y.any()
    assert 0.4 < y_test.mean() < 0.6
    # An autoencoder reaches 0.9.
    far_off = reconstruction_auc(x_test, x.mean(0), y_test)
    assert 0.5 < far_off < 0.6


def test_silence_has_no_word_in_it():
    rng = np.random.default_rng(0)
    silence = keywords.CLASSES.index("silence")
    quiet = keywords.speak(np.full(200, silence), rng=rng)
    spoken = keywords.speak(np.zeros(200, int), rng=rng)

    assert spoken.var() > 1.1 * quiet.var()


def test_unknown_words_and_names_are_refused():
    with pytest.raises(ValueError, match="Received: name='mnist'"):
        load("mnist", "train")
    with pytest.raises(ValueError, match="Received: split='dev'"):
        load("shapes", "dev")
    with pytest.raises(ValueError, match="Use `load_batches"):
        load("imagenet2012", "train")


def _images_of_any_size(count):
    rng = np.random.default_rng(0)
    sizes = rng.integers(20, 60, (count, 2))
    return [
        {"image": rng.integers(0, 256, (h, w, 3), dtype=np.uint8), "label": i}
        for i, (h, w) in enumerate(sizes)
    ]


def test_image_batches_crop_and_shuffle_for_training_only():
    source = _images_of_any_size(10)
    kwargs = {"batch_size": 4, "image_size": 16}
    train = ImageBatches(source, **kwargs, augment=True)
    test = ImageBatches(source, **kwargs, augment=False)

    assert [len(y) for _, y in (test[i] for i in range(3))] == [4, 4, 2]
    assert test[0][0].shape == (4, 16, 16, 3)
    assert list(np.concatenate([test[i][1] for i in range(3)])) == list(
        range(10)
    )
    first = train[0]
    train.on_epoch_end()
    assert sorted(np.concatenate([train[i][1] for i in range(3)])) == list(
        range(10)
    )
    assert not np.array_equal(first[0], train[0][0])
    assert np.abs(first[0]).max() <= 1.0


def test_load_batches_reads_what_load_reads(prepared):
    batches = load_batches(
        "shapes", "test", batch_size=2, image_size=28, data_dir=prepared
    )
    _, labels = load("shapes", "test", data_dir=prepared)

    assert len(batches) == 2
    assert batches[0][0].shape == (2, 28, 28, 3)
    np.testing.assert_array_equal(batches[0][1], labels[:2])


def test_mfcc_tells_a_low_tone_from_a_high_one():
    time = np.arange(16_000) / 16_000
    low, high = (
        mfcc((8_000 * np.sin(2 * np.pi * f * time)).astype("int16"))
        for f in (200, 3_000)
    )

    assert low.shape == (49, 10, 1)
    # The first cosine falls with the band: positive where energy is low.
    assert low[10, 1, 0] > 0 > high[10, 1, 0]


def test_mfcc_pads_short_recordings():
    short = mfcc(np.full(8_000, 1_000, "int16"))

    assert short.shape == (49, 10, 1)
    np.testing.assert_allclose(
        short[-1], mfcc(np.zeros(1, "int16"))[0], atol=1e-4
    )


def _write_idx(path, array):
    sizes = np.array(array.shape, ">u4").tobytes()
    data = bytes((0, 0, 8, array.ndim)) + sizes + array.tobytes()
    path.write_bytes(gzip.compress(data, 1))


@pytest.fixture(scope="module")
def fashion_files(tmp_path_factory):
    """Files like those of Fashion-MNIST: 5,003 for training, 4 to test."""
    folder = tmp_path_factory.mktemp("fashion")
    rng = np.random.default_rng(0)
    made = {}
    for part, count in (("train", 5_003), ("t10k", 4)):
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, 0, 0] = np.arange(count) % 256
        images[:, 5, 7] = 255
        labels = rng.integers(0, 10, count).astype(np.uint8)
        _write_idx(folder / f"{part}-images-idx3-ubyte.gz", images)
        _write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels)
        made[part] = images, labels
    return folder, made


def test_fashion_mnist_is_read_from_a_folder(
    fashion_files, tmp_path, monkeypatch
):
    folder, made = fashion_files
    monkeypatch.setenv("FASHION_MNIST", str(folder))
    images, labels = made["train"]
    for split, part in (
        ("train", slice(0, 3)),
        ("validation", slice(3, 503)),  # From the last 5,000 on.
    ):
        x, y = load("fashion_mnist", split, 500, data_dir=tmp_path)

        assert x.dtype == np.float32
        expected = images[part, ..., np.newaxis] / np.float32(255)
        np.testing.assert_array_equal(x, expected)
        np.testing.assert_array_equal(y, labels[part])
    x, y = load("fashion_mnist", "test", data_dir=tmp_path)
    assert x.shape == (4, 28, 28, 1)
    assert (x.min(), x.max()) == (0.0, 1.0)
    np.testing.assert_array_equal(y, made["t10k"][1])


def test_fashion_mnist_without_files_is_the_one_that_downloads(
    tmp_path, monkeypatch
):
    names = []

    def builder(name, **options):
        names.append(name)
        raise RuntimeError("No network.")

    monkeypatch.delenv("FASHION_MNIST", raising=False)
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "nothing")
    monkeypatch.setattr(tfds, "builder", builder)
    with pytest.raises(RuntimeError, match="No network"):
        load("fashion_mnist", "train")
    assert names == ["fashion_mnist"]


def test_an_idx_file_of_another_type_is_refused(tmp_path):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(bytes((0, 0, 0x0D, 1, 0, 0, 0, 1, 0))))

    with pytest.raises(ValueError, match="IDX file of unsigned bytes"):
        fashion_mnist.read_idx(path)
