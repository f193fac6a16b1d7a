"""TrainingSchedule: knows how far a training has come."""

import warnings

import keras
import numpy as np
import pytest

import codeq_keras
from codeq_keras.training.schedule import TrainingSchedule


@pytest.fixture
def qmodel(cnn):
    return codeq_keras.quantize_model(cnn)


def test_schedule_anneals_over_the_whole_training():
    schedule = TrainingSchedule()
    schedule.start(num_steps=1000)

    rates = []
    for _ in range(1000):
        rates.append(float(schedule.logit_rate()))
        schedule.advance()

    assert rates[0] == pytest.approx(16 / 1000)
    assert np.all(np.diff(rates) <= 0)
    assert rates[-1] == pytest.approx(0.03 * rates[0])
    # 8 to 20 units of travel; the logits need 2.5.
    assert 8 < sum(rates) < 20


def test_bits_settle_in_the_middle_of_a_training():
    schedule = TrainingSchedule()
    schedule.start(num_steps=4)

    is_moving = []
    for _ in range(4):
        is_moving.append(float(schedule.bits_rate()) > 0)
        schedule.advance()

    assert is_moving == [True, True, False, False]


@pytest.mark.parametrize("initial_epoch", [0, 2])
def test_fit_sets_the_schedule_to_its_length(qmodel, data, initial_epoch):
    qmodel.compile("adam", loss="sparse_categorical_crossentropy")

    qmodel.fit(
        *data, batch_size=16, epochs=3, initial_epoch=initial_epoch, verbose=0
    )

    assert int(qmodel.schedule.num_steps) == 4 * (3 - initial_epoch)
    assert float(qmodel.schedule.progress()) == 1.0


def test_resumed_training_goes_on_with_its_schedule(qmodel, data, tmp_path):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def train(model, *callbacks, initial_epoch=0):
        model.compile("adam", loss="sparse_categorical_crossentropy")
        model.fit(
            *data,
            batch_size=16,
            epochs=5,
            verbose=0,
            initial_epoch=initial_epoch,
            callbacks=list(callbacks),
        )

    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        train(qmodel, backup, Interrupt())
    qmodel.save(tmp_path / "interrupted.keras")
    loaded = keras.saving.load_model(tmp_path / "interrupted.keras")

    train(loaded, initial_epoch=2)
    fresh = codeq_keras.quantize_model(
        codeq_keras.strip_quantizers(qmodel),
    )
    train(fresh, keras.callbacks.BackupAndRestore(tmp_path / "backup"))

    for resumed in (loaded, fresh):
        assert int(resumed.schedule.first_step) == 0
        assert int(resumed.schedule.num_steps) == 4 * 5
        assert int(resumed.schedule.step) == 4 * 5


def test_schedule_learns_the_length_of_an_unsized_dataset(qmodel, data):
    x, y = data

    def batches():
        while True:
            yield x[:16], y[:16]

    qmodel.compile("adam", loss="sparse_categorical_crossentropy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras notes the end of a generator.
        qmodel.fit(batches(), steps_per_epoch=5, epochs=2, verbose=0)

    assert int(qmodel.schedule.num_steps) == 5 * 2
