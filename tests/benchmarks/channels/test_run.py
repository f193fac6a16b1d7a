"""The benchmark of channels runs, resumes and reports."""

import keras
import numpy as np
import pytest
from channels import files, latency, methods, report, run
from channels.cases import CASES, Case, Start, narrow_widths, num_macs
from harness import results, workload
from support.stripes import stripes

import codeq_keras


def tiny_network(*, widths) -> keras.Model:
    inputs = keras.Input((8, 8, 1))
    x = inputs
    for index, width in enumerate(widths):
        x = keras.layers.Conv2D(width, 3, strides=2, name=f"conv_{index}")(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="dense")(x))


@pytest.fixture
def tiny(monkeypatch):
    case = Case(
        tiny_network, (16, 32), "stripes", "stripes", 640, 2, 2, given=1_280
    )
    monkeypatch.setitem(CASES, "tiny", case)
    monkeypatch.setattr("channels.cases.load", lambda name, *a: stripes(*a))
    counts = {"validation": 100, "test": 200}
    monkeypatch.setattr(workload, "NUM_EXAMPLES", counts)
    return case


def compare(folder, *names: str) -> list[dict]:
    arguments = ["--models", "tiny", "--output", str(folder)]
    run.main(
        [*arguments, "--methods", *names, "--shares", "0.5", "--seeds", "0"]
    )
    return results.read(folder / "channels_tiny.jsonl")


def test_runs_are_recorded_once_and_reported(tiny, tmp_path):
    names = ("wide_qat", "narrow_scratch", "uniform_removal")
    lines = compare(tmp_path, *names)
    assert [line["method"] for line in lines] == list(names)
    assert compare(tmp_path, *names) == lines

    wide, narrow, removed = lines
    assert (wide["share"], wide["relative_macs"]) == (1.0, 1.0)
    assert wide["channels"] == [16, 32, 2]
    # Equal widths, so equal costs: only the accuracy is compared.
    assert narrow["channels"] == removed["channels"]
    assert narrow["relative_macs"] == removed["relative_macs"]
    assert narrow["relative_macs"] == pytest.approx(0.5, abs=0.03)

    saved = tmp_path / "models" / "tiny_uniform_removal_0.5_2_0.keras"
    model = keras.saving.load_model(saved, compile=False)
    assert isinstance(model, codeq_keras.QuantizedModel)
    table = (tmp_path / "channels_tiny.md").read_text()
    for name in names:
        assert methods.METHODS[name].label in table
    assert (tmp_path / "channels_tiny.png").stat().st_size > 0


def test_a_given_network_saw_more_data_than_what_follows(tiny, tmp_path):
    start = Start.load("tiny", 0, tmp_path, None)

    assert len(start.split.train[0]) == 640
    assert [path.name for path in (tmp_path / "float").iterdir()] == [
        "tiny_0.keras"
    ]


def test_narrow_network_is_the_same_in_every_seed_s_second_run(tiny, tmp_path):
    start = Start.load("tiny", 0, tmp_path, None)
    first = methods.narrow_float(start, 1, 0.5).get_weights()
    again = methods.narrow_float(start, 1, 0.5).get_weights()

    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["fashion_resnet8", "shapes_resnet8"])
def test_narrow_widths_come_near_the_share(name):
    case = CASES[name]
    sizes = narrow_widths(case, 0.5)

    assert all(new % 8 == 0 and new <= old for old, new in sizes.items())
    wide, narrow = (
        num_macs(case.build(widths=widths))
        for widths in (case.widths, case.narrowed(sizes))
    )
    assert narrow / wide == pytest.approx(0.5, abs=0.03)


def test_table_compares_with_the_wide_and_with_the_narrow_network():
    common = {
        "model": "m",
        "epochs": 6,
        "float_score": 0.9,
        "kernel_bytes": 1_000,
        "channels": [8, 10],
        "relative_macs": 0.5,
    }
    lines = [
        common | {"method": method, "share": share, "seed": s, "test_score": v}
        for method, share, scores in (
            ("channels", 0.5, (0.90, 0.92)),
            ("wide_qat", 1.0, (0.91, 0.93)),
            ("narrow_scratch", 0.5, (0.89, 0.90)),
        )
        for s, v in enumerate(scores)
    ]

    rows = report.rows(report.grouped(lines))

    assert [row[0] for row in rows] == [
        methods.METHODS[name].label
        for name in ("wide_qat", "narrow_scratch", "channels")
    ]
    assert rows[2][3:6] == ["91.00 ± 1.41", "-1.00", "+1.50"]
    assert rows[0][4:6] == ["-", "-"]


def test_methods_without_a_share_have_one_file():
    assert files.wanted(("wide_float", "channels"), (0.5, 0.25)) == [
        ("wide_float", 1.0),
        ("channels", 0.5),
        ("channels", 0.25),
    ]


def test_a_missing_model_is_named_with_the_command_that_makes_it(tmp_path):
    wanted = run.Run("fashion_mobilenet", "channels", 0.5, 6, 1)

    with pytest.raises(SystemExit, match=r"--shares 0.5 --seeds 1. makes it"):
        files.find_model(wanted, None, tmp_path)


@pytest.mark.parametrize("pair", latency.PAIRS.values(), ids=latency.PAIRS)
def test_pairs_of_the_latency_table_differ_by_what_the_issue_asks(pair):
    net = pair.build()
    ratio = num_macs(pair.shrink(net)) / num_macs(net)

    assert 0.45 < ratio < 0.62
