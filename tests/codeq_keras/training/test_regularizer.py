"""CompressionRegularizer: the penalties in the loss."""

import pytest

import codeq_keras


def penalty_of(cnn, **penalties):
    qmodel = codeq_keras.quantize_model(
        cnn,
        codeq_keras.CoDeQConfig(bit_width="learned"),
        regularizer=codeq_keras.CompressionRegularizer(**penalties),
    )
    penalty = qmodel.regularizer.penalty(qmodel.kernels)
    return None if penalty is None else float(penalty)


def test_penalties_are_those_of_the_paper(cnn):
    # Three kernels with both logits at 3.
    assert penalty_of(cnn) is None
    assert penalty_of(cnn, dead_zone_penalty=0.01) == pytest.approx(
        0.01 * 3 * 3.0**2
    )
    assert penalty_of(cnn, bit_width_penalty=0.1) == pytest.approx(
        0.1 * 3 * 3.0**2
    )


def test_density_penalty_is_the_fraction_of_nonzero_weights(cnn):
    expected = (
        1
        - codeq_keras.report(
            codeq_keras.quantize_model(
                cnn, codeq_keras.CoDeQConfig(bit_width=8)
            )
        ).sparsity
    )

    assert penalty_of(cnn, density_penalty=2.0) == pytest.approx(2 * expected)


def test_penalties_do_not_enter_val_loss(cnn, data):
    qmodel = codeq_keras.quantize_model(
        cnn,
        regularizer=codeq_keras.CompressionRegularizer(dead_zone_penalty=1e6),
    )
    qmodel.compile("sgd", loss="sparse_categorical_crossentropy")

    assert qmodel.evaluate(*data, verbose=0) < 100


def test_negative_penalty_is_refused():
    with pytest.raises(ValueError, match="Received: density_penalty=-1"):
        codeq_keras.CompressionRegularizer(density_penalty=-1)
