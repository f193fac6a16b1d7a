"""CoDeQConfig refuses what cannot be meant and survives serialization."""

import json

import keras
import numpy as np
import pytest

from codeq_keras import CoDeQConfig


@pytest.mark.parametrize(
    "argument",
    [
        {"bit_width": 1},
        {"bit_width": 9},
        {"bit_width": 4.0},
        {"bit_width": True},
        {"bit_width": "four"},
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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("range_quantile", "0.9"),
        ("range_quantile", None),
        ("range_quantile", True),
        ("initial_dead_zone_logit", "3"),
        ("initial_bit_width_logit", float("nan")),
    ],
)
def test_argument_that_is_no_number_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a number in"):
        CoDeQConfig(**{name: value})


def test_numbers_of_numpy_are_those_of_python():
    config = CoDeQConfig(
        bit_width=np.int64(4),
        max_bit_width=np.int8(6),
        axis=np.int32(-1),
        sparsity_block=np.int64(2),
        range_quantile=np.float32(0.5),
    )

    expected = CoDeQConfig(
        bit_width=4,
        max_bit_width=6,
        axis=-1,
        sparsity_block=2,
        range_quantile=0.5,
    )
    assert config == expected
    assert json.dumps(config.get_config()) == json.dumps(expected.get_config())
