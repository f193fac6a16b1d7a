"""The step-time benchmark: what it times and how it reports it."""

import numpy as np
import overhead


def test_a_round_steps_every_variant_in_turns():
    order = []
    steppers = {
        name: lambda name=name: order.append(name) for name in ("a", "b")
    }

    timings = overhead.one_round(steppers, turns=3)

    assert order == ["a", "b"] * 3
    assert set(timings) == {"a", "b"}
    assert all(ms >= 0 for pair in timings.values() for ms in pair)


def test_hgq2_takes_every_fifth_turn():
    order = []
    steppers = {
        name: lambda name=name: order.append(name)
        for name in ("fast", overhead.HGQ2)
    }

    overhead.one_round(steppers, turns=10)

    assert order.count("fast") == 10
    assert order.count(overhead.HGQ2) == 10 // overhead.SLOW_EVERY


def test_ratios_are_those_of_the_same_round():
    times = {"slow": [4.0, 30.0], "plain": [2.0, 10.0]}

    np.testing.assert_array_equal(
        overhead.ratios(times, "slow", "plain"), [2, 3]
    )


def test_table_compares_tfmot_with_its_own_float_and_names_what_is_missing():
    times = {
        overhead.BASELINE: [10.0, 10.0],
        overhead.TFMOT_BASELINE: [8.0, 8.0],
        overhead.TFMOT: [12.0, 12.0],
    }
    table = overhead.as_markdown(
        {
            "network": "resnet8",
            "backend": "tensorflow",
            "loads": (0.5, 1.0),
            "wall_ms": times,
            "cpu_ms": times,
            "first_steps_s": dict.fromkeys(times, 3.0),
            "not_run": {overhead.HGQ2: "ModuleNotFoundError: hgq"},
        }
    )

    row = next(line for line in table.splitlines() if overhead.TFMOT in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2].startswith("1.200")  # 12 / 10
    assert cells[4] == "1.500"  # 12 / 8
    assert "| HGQ2 | not run: ModuleNotFoundError: hgq |" in table
