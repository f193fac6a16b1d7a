"""The training that all benchmarks share."""

import numpy as np
from harness import training


def test_augmentation_keeps_images_and_labels_together():
    x = np.arange(64 * 4, dtype="float32").reshape(64, 2, 2, 1)
    found = training.Batches(
        x,
        np.arange(64),
        batch_size=64,
        seed=0,
        augment=training.mirror_and_transpose,
    )
    images, labels = found[0]
    np.testing.assert_array_equal(
        np.sort(images.reshape(64, 4)), np.sort(x[labels].reshape(64, 4))
    )
    assert not np.array_equal(images, x[labels])
    # The data itself is not turned.
    assert np.array_equal(x.ravel(), np.arange(64 * 4))


def test_images_are_moved_and_mirrored_but_not_changed():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 8, 8, 3)).astype("float32")

    moved = training.crop_and_mirror(x, rng)

    for before, after in zip(x, moved, strict=True):
        values = after[after != 0]
        assert np.isin(values, before).all()
        assert len(values) >= 4 * 4 * 3  # Four of eight pixels remain.


def test_batches_without_a_seed_are_all_examples_in_order():
    x = np.arange(5)

    found = training.Batches(x, x, batch_size=2, seed=None)

    assert [list(found[i][0]) for i in range(len(found))] == [
        [0, 1],
        [2, 3],
        [4],
    ]


def test_an_epoch_may_be_a_part_of_all_batches():
    x = np.arange(100)

    found = training.Batches(x, x, batch_size=10, seed=0, length=3)
    first = np.concatenate([found[i][0] for i in range(len(found))])
    found.on_epoch_end()
    second = np.concatenate([found[i][0] for i in range(len(found))])

    assert len(set(first)) == len(set(second)) == 30
    assert set(first) != set(second)
