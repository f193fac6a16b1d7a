"""Benchmark rows hold what the tools measure, and say what was not run."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from support.foreign import FILES

from tflite_export import benchmark
from tflite_export.cli.commands import EXIT_ERROR, EXIT_OK, main
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.measuring.devices import android, host
from tflite_export.measuring.devices.records import (
    Candidate,
    Measurement,
    NotRun,
    largest_difference,
)
from tflite_export.measuring.report import BenchmarkReport, BenchmarkRow
from tflite_export.measuring.sizes import Sizes, measure_sizes
from tflite_export.runtime import interpreter
from tflite_export.tables import Table
from tflite_export.targets.ethos_u.vela import compile_file
from tflite_export.targets.litert_storage import store_weights
from tflite_export.targets.tflm.simulation import measure
from tflite_export.targets.tflm.storage import store_packed
from tflite_export.weights.sites import weight_sites

DEVICE_TARGETS = ("tflm", "ethos-u", "edgetpu")


@pytest.fixture(scope="module")
def files(sparse_convolutions, export_grid_model, tmp_path_factory):
    """The same network with dense and with sparse weights."""
    folder = tmp_path_factory.mktemp("benchmark")
    exported = export_grid_model(*sparse_convolutions, folder)
    dense = folder / "dense.tflite"
    exported.result.path.rename(dense)
    file = Flatbuffer(dense.read_bytes())
    store_weights(file, "sparse")
    sparse = folder / "sparse.tflite"
    sparse.write_bytes(file.to_bytes())
    return dense, sparse


@pytest.fixture(scope="module")
def report(files):
    return benchmark(*files, targets=DEVICE_TARGETS)


@pytest.fixture
def no_phone(monkeypatch, tmp_path):
    """No emulator, and a PATH on which no `adb` is."""
    monkeypatch.setenv("TFLITE_EXPORT_ARM_ROOT", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", str(tmp_path))


def _candidate(path):
    data = path.read_bytes()
    inputs = interpreter.random_inputs(Flatbuffer(data), 4)
    return Candidate(path, data, inputs)


def test_sizes_count_the_weights_and_their_entropy(files):
    codes = [
        s.slot.codes for s in weight_sites(Flatbuffer(files[0].read_bytes()))
    ]
    bound = 0.0
    for array in codes:
        share = np.unique(array, return_counts=True)[1] / array.size
        bound -= array.size * (share * np.log2(share)).sum() / 8

    sizes = measure_sizes(files[0].read_bytes())

    assert sizes.file_bytes == files[0].stat().st_size
    assert sizes.weight_bytes == sum(array.size for array in codes)
    assert sizes.entropy_bytes == pytest.approx(bound, abs=0.05)  # rounded
    assert sizes.entropy_ratio == pytest.approx(
        sizes.weight_bytes / sizes.entropy_bytes
    )


def test_entropy_bound_does_not_depend_on_the_storage(files):
    dense, sparse = (measure_sizes(path.read_bytes()) for path in files)

    assert sparse.entropy_bytes == dense.entropy_bytes
    assert sparse.weight_bytes != dense.weight_bytes


def test_rows_hold_what_the_tools_say(files, report):
    data = files[0].read_bytes()
    row = report.rows[0]

    compiled = compile_file(data, accelerator="ethos-u55-128")
    assert row.values("ethos-u55-128")["cycles"] == compiled.cycles
    assert row.values("tflm")["flash_bytes"] == len(data)
    assert row.values("tflm")["max_lsb"] <= 1


def test_what_was_not_run_is_listed_with_the_reason(report):
    reasons = {n.device: n.reason for n in report.rows[1].not_run}
    text = str(report)

    assert "must hold dense int8 weights" in reasons["tflm"]
    assert "must hold dense int8 weights" in reasons["ethos-u55-128"]
    assert "not run on tflm: sparse.tflite: " in text
    assert "not run on edgetpu: dense.tflite: not compiled for it." in text


def test_cycles_of_a_part_have_no_ratio_to_those_of_a_whole():
    sizes = Sizes(2000, 1500, 1400, 0, 0.0)
    rows = [
        BenchmarkRow(
            Path(f"{cycles}.tflite"),
            sizes,
            (Measurement("npu", {"cycles": cycles, "num_cpu_operators": on}),),
            (),
        )
        for cycles, on in ((100, 0), (50, 0), (25, 1))
    ]

    report = BenchmarkReport(tuple(rows), {})

    size, npu = (part for part in report.parts() if isinstance(part, Table))
    ratio = npu.columns.index("ratio")
    assert [row[ratio] for row in npu.rows] == ["1.00", "0.50", "-"]
    # Of a file that shows no weights, such as a compiled one.
    assert size.rows[0][-3:] == ("-", "-", "-")


@pytest.mark.parametrize(
    "name", ["scalar_input", "rank_1_input", "fixed_batch", "batch_and_scalar"]
)
def test_inputs_of_any_shape_are_timed(tmp_path, name):
    data = FILES[name]()
    inputs = interpreter.random_inputs(Flatbuffer(data), 4)
    (result,) = host.measure([Candidate(tmp_path, data, inputs)])
    shapes = [
        interpreter.sample_shape(tensor)
        for tensor in Flatbuffer(data).inputs().values()
    ]

    outputs = interpreter.run(data, inputs)

    assert isinstance(result, Measurement)
    # One entry a sample on both sides.
    assert [v.shape for v in inputs.values()] == [(4, *s) for s in shapes]
    assert {len(values) for values in outputs.values()} == {4}


def test_samples_of_a_fixed_batch_have_its_shape(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(FILES["fixed_batch"]())

    with pytest.raises(ValueError, match=r"\[\(4, 8\)\] without the batch"):
        benchmark(path, targets=(), samples=np.zeros((2, 8)))
    benchmark(path, targets=(), samples=np.zeros((2, 4, 8)))


def test_samples_that_are_no_whole_batch_are_refused_by_name():
    with pytest.raises(ValueError, match=r"batch of 1.*'x' of shape \(4, 8\)"):
        interpreter.run(FILES["fixed_batch"](), {0: np.zeros((4, 8))})


def test_a_picture_that_cannot_be_written_is_refused_before_the_work(
    files, tmp_path, capsys
):
    for path in (tmp_path, tmp_path / "none" / "plot.png"):
        code = main(["benchmark", str(files[0]), "--plot", str(path)])

        assert code == EXIT_ERROR
        assert "`path` must be" in capsys.readouterr().err


def test_report_as_json_has_numbers_and_reasons(report):
    plain = json.loads(json.dumps(report.to_dict()))

    dense, sparse = plain["rows"]
    assert dense["measurements"]["tflm"]["arena_bytes"] > 0
    assert "tflm" not in sparse["measurements"]
    assert "tflm" in sparse["not_run"]
    assert plain["machine"]["threads"].startswith("1, ")


def test_times_are_of_at_least_50_rounds_and_ratios_to_the_first(files):
    results = host.measure([_candidate(path) for path in (*files, files[0])])

    assert [type(result) for result in results] == [Measurement] * 3
    values = [result.values for result in results]
    assert all(v["num_runs"] >= host.MIN_RUNS for v in values)
    assert all(0 < v["median_us"] <= v["p90_us"] for v in values)
    assert values[0]["ratio"] == 1
    # The same file again; a factor of 3 is no noise of interleaved runs.
    assert 1 / 3 < values[2]["ratio"] < 3


def test_a_file_that_fails_leaves_the_others_measured(files, tmp_path):
    data = files[0].read_bytes()
    (index,) = Flatbuffer(data).interface()[0]
    # An input that no kernel of the file takes.
    wrong = {index: np.zeros((1, 5, 5, 3), np.int8)}
    broken = Candidate(tmp_path / "broken.tflite", data, wrong)

    failed, measured = host.measure([broken, _candidate(files[0])])

    assert isinstance(failed, NotRun)
    assert "Received: " in failed.reason
    assert measured.values["ratio"] == 1


@pytest.mark.usefixtures("no_phone")
def test_missing_emulator_and_phone_are_reasons_not_errors(files):
    report = benchmark(files[0], targets=("litert",))

    reasons = {n.device: n.reason for n in report.rows[0].not_run}
    assert report.devices == ("host",)
    assert "make arm" in reasons["cortex-a53"]
    assert "make arm" in reasons["cortex-a76"]
    assert "no `adb` on PATH" in reasons["android"]


def test_wrong_samples_and_threads_are_refused(files):
    with pytest.raises(ValueError, match=r"Received: \[\(5,\)\]"):
        benchmark(files[0], samples=np.zeros((2, 5)))
    for number in (0, "1", None):
        with pytest.raises(ValueError, match=f"num_threads={number!r}"):
            benchmark(files[0], num_threads=number)
    with pytest.raises(ValueError, match="Received: none"):
        benchmark()
    with pytest.raises(ValueError, match="Received: target='phone'"):
        benchmark(files[0], targets=("phone",))


def test_damaged_file_is_an_error(tmp_path):
    path = tmp_path / "damaged.tflite"
    path.write_bytes(b"\x00\x00\x00\x00TFL3")

    with pytest.raises(ValueError, match="Expected an undamaged"):
        benchmark(path)


def test_plot_is_a_png(report, tmp_path):
    path = tmp_path / "report.png"

    report.plot(path)

    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]


def test_missing_packages_are_reasons_and_an_error_of_the_plot(
    files, report, monkeypatch, tmp_path
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    bare = benchmark(files[0], targets=("tflm", "ethos-u"))

    reasons = {n.device: n.reason for n in bare.rows[0].not_run}
    assert "codeq-keras[targets]" in reasons["tflm"]
    assert "codeq-keras[targets]" in reasons["ethos-u55-128"]
    with pytest.raises(ImportError, match=r"codeq-keras\[plot\]"):
        report.plot(tmp_path / "report.png")


def test_command_line_prints_tables_and_json(files, capsys, tmp_path):
    arguments = ["benchmark", str(files[0]), "--target", "tflm"]

    code = main([*arguments, "--plot", str(tmp_path / "plot.png")])
    table = capsys.readouterr().out
    main([*arguments, "--json"])
    plain = json.loads(capsys.readouterr().out)

    assert code == EXIT_OK
    assert "arena bytes" in table
    assert "entropy bound" in table
    assert plain["rows"][0]["measurements"]["tflm"]["max_lsb"] <= 1
    assert (tmp_path / "plot.png").exists()


def test_largest_difference_sees_a_nan_on_one_side():
    held = {0: np.array([1.0, np.nan])}

    assert largest_difference(held, held) == 0
    assert largest_difference(held, {0: np.array([1.0, 2.0])}) == np.inf


@pytest.mark.parametrize("storage", ["lut", "huffman"])
def test_packed_weights_are_measured_against_the_dense_ones(files, storage):
    data = files[0].read_bytes()
    file = Flatbuffer(data)
    store_packed(file, storage)
    compressed = file.to_bytes()
    inputs = interpreter.random_inputs(Flatbuffer(data), 4)

    report = measure(compressed, inputs)

    assert report.num_decoded
    assert report.max_lsb <= 1
    dense, packed = measure_sizes(data), measure_sizes(compressed)
    assert packed.entropy_bytes == dense.entropy_bytes
    assert packed.weight_bytes < dense.weight_bytes


# The phone -----------------------------------------------------------------

OUTPUT = """\
INFO: STARTING!
INFO: Loaded model /data/local/tmp/model.tflite
INFO: Running benchmark for at least 10 iterations and at least 0.5 seconds
INFO: count=37 first=14744 curr=15520 min=13164 max=18295 avg=13764.3 std=967

INFO: Running benchmark for at least 50 iterations and at least 1 seconds
INFO: count=74 first=14850 curr=13315 min=13105 max=15765 avg=1.35e+04 std=470 \
p5=13200 median=13400 p95=14900

INFO: Inference timings in us: Init: 12750, First inference: 14744, \
Warmup (avg): 13764.3, Inference (avg): 13520.2
"""


@pytest.fixture
def adb(monkeypatch, tmp_path):
    """Puts an `adb` on PATH that knows one phone and logs its calls."""
    log, state = tmp_path / "log", tmp_path / "state"
    (tmp_path / "output").write_text(OUTPUT)
    state.write_text("device")
    program = tmp_path / "adb"
    program.write_text(
        f"""#!/bin/sh
echo "$*" >> {log}
case "$*" in
  devices) printf 'List of devices attached\\n0123\\t%s\\n\\n' \
"$(/bin/cat {state})";;
  *getprop*) echo Phone 9;;
  *"ls "*) echo {android.FOLDER}/benchmark_model;;
  *--graph=*) /bin/cat {tmp_path}/output;;
esac
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_phone_runs_the_pushed_file_and_is_left_clean(adb, files):
    result = android.measure(_candidate(files[0]), num_threads=2)

    calls = (adb / "log").read_text().splitlines()
    assert result.values == {
        "num_runs": 74,
        "mean_us": 13500,
        "median_us": 13400,
        "p95_us": 14900,
        "init_us": 12750,
        "phone": "Phone 9",
    }
    (run,) = (call for call in calls if "--graph=" in call)
    assert "--num_threads=2" in run
    assert "--num_runs=50" in run
    assert f"push {files[0]} " in "\n".join(calls)
    assert "rm -f" in calls[-2]


def test_phone_takes_the_program_that_the_user_names(adb, files):
    program = adb / "benchmark_model_aarch64"
    program.write_bytes(b"")

    android.measure(_candidate(files[0]), program=program)

    calls = (adb / "log").read_text()
    assert f"push {program} " in calls
    assert "chmod 755" in calls


@pytest.mark.parametrize(
    ("state", "reason"),
    [("unauthorized", "allow USB debugging"), ("offline", "is offline")],
)
def test_phone_that_is_not_ready_is_a_reason(adb, files, state, reason):
    (adb / "state").write_text(state)

    result = android.measure(_candidate(files[0]))

    assert isinstance(result, NotRun)
    assert reason in result.reason


def test_program_that_prints_no_times_is_a_reason(adb, files):
    (adb / "output").write_text("ERROR: Failed to load the model\n")

    result = android.measure(_candidate(files[0]))

    assert "Received: ERROR: Failed to load the model." in result.reason


def test_first_lines_of_older_programs_are_read_too():
    text = """\
count=15 first=49060 curr=33682 min=32825 max=49060 avg=34825.1 std=3930
count=50 first=32891 curr=33978 min=32641 max=34005 avg=33209.4 std=450
Inference timings in us: Init: 855, First inference: 49060, \
Warmup (avg): 34825.1, Inference (avg): 33209.4
"""

    assert android.parse_times(text) == {
        "num_runs": 50,
        "mean_us": 33209.4,
        "init_us": 855,
    }


def _row(name, macs, **values):
    sizes = Sizes(2000, 1500, 1400, 0, 0.0)
    found = Measurement("tflm", values)
    return BenchmarkRow(Path(name), sizes, (found,), (), macs)


def test_work_and_memory_have_their_ratios():
    rows = (
        _row("wide.tflite", 2000, flash_bytes=100, arena_bytes=80),
        _row("narrow.tflite", 500, flash_bytes=50, arena_bytes=20),
        _row("compiled.tflite", None, flash_bytes=25),
    )
    report = BenchmarkReport(rows, {})

    size, tflm = (part for part in report.parts() if isinstance(part, Table))
    macs = size.columns.index("MACs")
    assert size.columns[macs + 1] == "ratio"
    assert [row[macs : macs + 2] for row in size.rows] == [
        ("2,000", "1.00"),
        ("500", "0.25"),
        ("-", "-"),
    ]
    arena = tflm.columns.index("arena bytes")
    assert [row[arena + 1] for row in tflm.rows] == ["1.00", "0.25", "-"]
    assert [row["macs"] for row in report.to_dict()["rows"]] == [
        2000,
        500,
        None,
    ]


def test_plot_has_a_panel_of_the_work_where_it_is_known(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(
        "tflite_export.measuring.report.plot_panels",
        lambda panels, *_: drawn.append({p.title: p.values for p in panels}),
    )
    known, unknown = _row("a.tflite", 3_000_000), _row("b.tflite", None)

    for rows in ((known, unknown), (unknown,)):
        BenchmarkReport(rows, {}).plot(tmp_path / "plot.png")

    title = "Multiply-accumulates, millions"
    assert drawn[0][title] == [3.0, None]
    assert title not in drawn[1]


def test_two_generations_of_a_npu_stand_side_by_side(files):
    report = benchmark(files[0], targets=("ethos-u", "ethos-u85-256"))

    assert report.devices == ("ethos-u55-128", "ethos-u85-256")
    for device in report.devices:
        assert report.rows[0].values(device)["cycles"] > 0
    tables = [part for part in report.parts() if isinstance(part, Table)]
    assert [table.title for table in tables[1:]] == list(report.devices)
    assert tables[1].columns.count("ratio") == 3  # Flash, cycles, SRAM.
    assert report.rows[0].macs > 0
