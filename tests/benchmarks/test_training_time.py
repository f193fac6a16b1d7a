"""The step-time benchmark: what it times and how it reports it."""

import numpy as np
import training_time


def test_a_round_steps_every_variant_in_turns():
    order = []
    steppers = {
        name: lambda name=name: order.append(name) for name in ("a", "b")
    }

    timings = training_time.one_round(steppers, turns=3)

    assert order == ["a", "b"] * 3
    assert set(timings) == {"a", "b"}
    assert all(ms >= 0 for pair in timings.values() for ms in pair)


def test_hgq2_takes_every_fifth_turn():
    order = []
    steppers = {
        name: lambda name=name: order.append(name)
        for name in ("fast", training_time.HGQ2)
    }

    training_time.one_round(steppers, turns=10)

    assert order.count("fast") == 10
    assert order.count(training_time.HGQ2) == 10 // training_time.SLOW_EVERY


def test_ratios_are_those_of_the_same_round():
    times = {"slow": [4.0, 30.0], "plain": [2.0, 10.0]}

    np.testing.assert_array_equal(
        training_time.ratios(times, "slow", "plain"), [2, 3]
    )


def test_table_compares_tfmot_with_its_own_float_and_names_what_is_missing():
    times = {
        training_time.BASELINE: [10.0, 10.0],
        training_time.TFMOT_BASELINE: [8.0, 8.0],
        training_time.TFMOT: [12.0, 12.0],
    }
    table = training_time.as_markdown(
        {
            "network": "resnet8",
            "backend": "tensorflow",
            "loads": (0.5, 1.0),
            "wall_ms": times,
            "cpu_ms": times,
            "first_steps_s": dict.fromkeys(times, 3.0),
            "not_run": {training_time.HGQ2: "ModuleNotFoundError: hgq"},
        }
    )

    row = next(
        line for line in table.splitlines() if training_time.TFMOT in line
    )
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2].startswith("1.200")  # 12 / 10
    assert cells[4].startswith("1.500")  # 12 / 8
    assert "| HGQ2 | not run: ModuleNotFoundError: hgq |" in table
