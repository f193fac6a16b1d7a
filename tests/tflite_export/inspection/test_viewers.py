"""Model Explorer and Netron show what is in the file."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.foreign import FILES

from tflite_export.cli.commands import EXIT_OK, main
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.inspection.node_data import node_data

KINDS = ("zeros", "bits", "entropy", "bytes")
# The position of the weights among the inputs.
_WEIGHTS = {
    "CONV_2D": 1,
    "DEPTHWISE_CONV_2D": 1,
    "FULLY_CONNECTED": 1,
    "TRANSPOSE_CONV": 1,
}
NETRON_SCRIPT = Path(__file__).parents[2] / "support" / "netron.mjs"
# What the package draws, in a process of its own: it starts a web server's
# modules, and finds the graph with an adapter of 130 MB.
EXPLORER_SCRIPT = """
import json, sys
import dacite
from model_explorer.builtin_tflite_flatbuffer_adapter import (
    BuiltinTfliteFlatbufferAdapter as Adapter,
)
from model_explorer.node_data_builder import GraphNodeData
from model_explorer.config import ModelExplorerConfig

file, *paths = sys.argv[1:]
(collection,) = Adapter().convert(file, {})["graphCollections"]
(graph,) = collection.graphs
nodes = {node["id"]: node["label"] for node in graph["nodes"]}
found = {}
for path in paths:
    ModelExplorerConfig().add_node_data_from_path(path)
    held = json.load(open(path))
    assert list(held) == [graph["id"]], list(held)
    data = dacite.from_dict(GraphNodeData, held[graph["id"]])
    found[data.name] = [nodes[node] for node in data.results]
print(json.dumps(found))
"""


@pytest.fixture
def written(zoo, tmp_path, capsys):
    """The node data of the zoo's file, by kind."""
    path = tmp_path / "out.json"
    file = str(zoo.result.path)
    assert main(["inspect", file, "--model-explorer", str(path)]) == EXIT_OK
    assert "out.zeros.json" in capsys.readouterr().out
    return {kind: tmp_path / f"out.{kind}.json" for kind in KINDS}


def test_node_data_are_those_of_the_weights_of_each_operator(written, zoo):
    held = {
        kind: json.loads(path.read_text())["main"]["results"]
        for kind, path in written.items()
    }
    file = Flatbuffer(zoo.result.path.read_bytes())
    weights, seen = {}, set()
    for operator in file.operators:
        position = _WEIGHTS.get(operator.name)
        # Shared weights count once, where they are read first.
        if position is not None and operator.inputs[position] not in seen:
            seen.add(operator.inputs[position])
            tensor = file.tensor(0, operator.inputs[position])
            weights[str(operator.index)] = tensor.data

    zeros = {place: np.mean(data == 0) for place, data in weights.items()}
    found = {place: node["value"] for place, node in held["zeros"].items()}
    assert found == pytest.approx(zeros)
    assert all(node == {"value": 8.0} for node in held["bits"].values())
    bounds = [node["value"] for node in held["entropy"].values()]
    assert 0 <= min(bounds) < max(bounds) <= 8
    first = next(iter(weights))
    assert held["bytes"][first]["value"] > weights[first].size


def test_codes_below_a_byte_count_with_their_bits():
    held = node_data(Flatbuffer(FILES["int4_weights"]()))

    (graph,) = held["bits"].values()
    (result,) = graph["results"].values()
    assert result["value"] == 4.0


def test_model_explorer_finds_the_nodes_of_the_data(written, zoo):
    if importlib.util.find_spec("model_explorer") is None:
        pytest.skip(
            "Needs `pip install ai-edge-model-explorer`, 130 MB with a web "
            "server; not in `dev`."
        )
    done = subprocess.run(
        [sys.executable, "-c", EXPLORER_SCRIPT, zoo.result.path]
        + [str(path) for path in written.values()],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == len(KINDS)
    labels = found["weights: zeros, fraction"]
    assert set(labels) <= {
        *("conv_2d", "depthwise_conv_2d", "fully_connected"),
        "transpose_conv",
    }
    assert len(labels) > 10


@pytest.fixture(scope="session")
def netron(tmp_path_factory):
    """The folder of Netron's sources, as a package that node can import."""
    node = shutil.which("node")
    found = importlib.util.find_spec("netron")
    if node is None or found is None:
        pytest.skip("Needs node on PATH, and the package `netron` of `dev`.")
    folder = tmp_path_factory.mktemp("netron") / "netron"
    (source,) = found.submodule_search_locations
    shutil.copytree(source, folder)
    (folder / "package.json").write_text('{"type": "module"}')
    return folder


def _open(netron, path):
    done = subprocess.run(
        ["node", str(NETRON_SCRIPT), str(netron), str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_netron_reads_the_codes_and_who_wrote_them(netron, zoo):
    shown = _open(netron, zoo.result.path)

    file = Flatbuffer(zoo.result.path.read_bytes())
    assert shown["description"] == file.description
    assert shown["description"].startswith("codeq-keras ")
    assert len(shown["operators"]) == len(file.operators)
    held = {c["name"].split("\n")[0]: c["values"] for c in shown["constants"]}
    expected = {
        t.name: t.data for t in file.tensors() if t.data is not None and t.name
    }
    assert "head/kernel" in expected
    for name, data in expected.items():
        np.testing.assert_array_equal(held[name], data, err_msg=name)
