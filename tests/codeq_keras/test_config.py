"""CoDeQConfig refuses what cannot be meant and survives serialization."""

import keras
import pytest

from codeq_keras import CoDeQConfig


@pytest.mark.parametrize(
    "argument",
    [
        {"bit_width": 1},
        {"bit_width": 9},
        {"bit_width": 4.0},
        {"bit_width": True},
        {"bit_width": "auto"},
        {"min_bit_width": 6, "max_bit_width": 5},
        {"max_bit_width": 16},
        {"level_grid": "deadzone"},
        {"axis": 0},
        {"range_quantile": 0.0},
        {"initial_dead_zone_logit": -1.0},
        {"initial_bit_width_logit": 5.0},
    ],
    ids=str,
)
def test_bad_argument_is_named_with_its_value(argument):
    [name, *_] = argument

    with pytest.raises(ValueError, match=rf"Received: .*{name}="):
        CoDeQConfig(**argument)


def test_config_round_trips_through_keras_serialization():
    config = CoDeQConfig(bit_width="learned", axis=-1, level_grid="uniform")

    serialized = keras.saving.serialize_keras_object(config)

    assert keras.saving.deserialize_keras_object(serialized) == config


def test_sparsity_block_is_one_of_those_that_kernels_use():
    with pytest.raises(ValueError, match="Received: sparsity_block=3"):
        CoDeQConfig(sparsity_block=3)
