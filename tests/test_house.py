"""The layers, the size and the way of the data, read from the sources."""

import ast
import re
from pathlib import Path

import pytest
from support import house

ROOT = Path(__file__).parents[1]

# From the ground up: a room imports only from rooms of the lines before it.
LAYERS = {
    "codeq_keras": [
        "ops architecture extras",
        "config",
        "activations",
        "quantizers",
        "costs",
        "training",
        "model",
        "annotate deployment",
        "post_training",
        "reports",
        "callbacks",
        "__init__",
        "tfmot",
    ],
    "tflite_export": [
        "format tables extras files",
        "weights runtime samples",
        "trained_model inspection arm",
        "conversion",
        "verification",
        "targets",
        "measuring",
        "exporting",
        "__init__",
        "cli",
        "__main__",
    ],
}
# What the exporter may read of `codeq_keras`, beside its `__init__`.
PUBLIC_ROOMS = ("deployment", "reports", "tfmot")
MAX_ROOMS = {"codeq_keras": 16, "tflite_export": 18}
MAX_FLOORS = {"codeq_keras": 11, "tflite_export": 10}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
# Half of the 100 at commit 2be3931; see `support.stays`.
MAX_STAYS = 50
MAX_VISITS = 3

packages = pytest.mark.parametrize("package", house.PACKAGES)


@packages
def test_rooms_import_only_from_lower_layers(package):
    layer = {
        room: number
        for number, rooms in enumerate(LAYERS[package])
        for room in rooms.split()
    }
    pairs = house.house(ROOT, package).imports
    upward = [
        (a, b)
        for a, b in sorted(pairs)
        if {Path(a).stem, Path(b).stem} <= layer.keys()
        and layer[Path(a).stem] <= layer[Path(b).stem]
    ]
    assert upward == [], upward


@packages
def test_every_room_has_a_layer(package):
    rooms = {Path(room).stem for room in house.house(ROOT, package).rooms}
    assert rooms <= set(" ".join(LAYERS[package]).split())


@packages
def test_no_circle_and_no_upward_import(package):
    counted = house.house(ROOT, package)
    assert counted.circles == []
    assert counted.upward == []


def test_exporter_takes_only_public_names_of_codeq_keras():
    files = house.modules(ROOT, "codeq_keras")
    # `codeq_keras.reports`: the pages of both packages look alike.
    modules = ("codeq_keras", *(f"codeq_keras.{n}" for n in PUBLIC_ROOMS))
    public = set(modules)
    for module in sorted(public):
        public |= {f"{module}.{name}" for name in _exported(files[module])}
    inner = {
        (each.source.relative_to(ROOT).as_posix(), each.name)
        for each in house.imports(ROOT, "tflite_export", "codeq_keras")
        if each.name not in public
    }
    for path in house.modules(ROOT, "tflite_export").values():
        names = set(re.findall(r"\bcodeq_keras\.\w+", _code(path)))
        inner |= {
            (path.relative_to(ROOT).as_posix(), n) for n in names - public
        }
    assert not inner, sorted(inner)


def _code(path):
    """The attributes that a file reads, one a line; no docstrings."""
    tree = ast.parse(path.read_text())
    attributes = (n for n in ast.walk(tree) if isinstance(n, ast.Attribute))
    return "\n".join(map(ast.unparse, attributes))


def _exported(path):
    """The names of `__all__`, or all that a module without it defines."""
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
            return ast.literal_eval(node.value)
    defined = [n for n in tree.body if isinstance(n, ast.FunctionDef)]
    return [node.name for node in defined if not node.name.startswith("_")]


def test_codeq_keras_does_not_know_the_exporter():
    assert house.imports(ROOT, "codeq_keras", "tflite_export") == []


@packages
def test_house_is_small(package):
    counted = house.house(ROOT, package)
    assert len(counted.rooms) <= MAX_ROOMS[package], counted.rooms
    assert max(counted.floors.values()) <= MAX_FLOORS[package], counted.floors


@packages
def test_files_are_short(package):
    lines = _lines(package)
    long = {path: n for path, n in lines.items() if n > MAX_FILE_LINES}
    assert not long, long


@packages
def test_functions_are_short(package):
    long = {}
    for path in house.modules(ROOT, package).values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                if (number := _num_lines(node)) > MAX_FUNCTION_LINES:
                    long[f"{path.relative_to(ROOT)}:{node.name}"] = number
    assert not long, long


def _num_lines(function):
    """From `def` to the last line of the body, without the docstring."""
    number = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        number -= docstring.end_lineno - docstring.lineno + 1
    return number


def _lines(package):
    return {
        path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines())
        for path in house.modules(ROOT, package).values()
    }


def test_an_export_visits_few_files_and_none_often():
    visits = house.count_stays(ROOT, "tflite_export/exporting.py:export")
    often = {path: n for path, n in visits.items() if n > MAX_VISITS}
    assert not often, often
    assert visits.total() <= MAX_STAYS


SOURCES = {
    "__init__": "",
    "start": """
from house_of_test import chain, devices, ground
from house_of_test.record import Record

STEPS = (ground.last,)

def begin(device: devices.Device, record: Record):
    chain.first(ground.early())
    device.store()
    record.name()
    for step in STEPS:
        step()

def idle():
    chain.first(0)
""",
    "chain": """
def first(value):
    return _second(value)

def _second(value):
    return value
""",
    "ground": "def early(): ...\ndef last(): ...\n",
    "record": "class Record:\n    def name(self): ...\n",
    "devices": """
class Device:
    def store(self):
        self.write()
    def write(self): ...
""",
    "phone": """
from house_of_test.devices import Device
class Phone(Device):
    name, title = "phone", "the phone"
    def write(self): ...
""",
    "board/__init__": "",
    "board/child": "from house_of_test import board\n",
    "script": "",
}


@pytest.fixture
def root(tmp_path):
    for name, text in SOURCES.items():
        path = tmp_path / "house_of_test" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_house_is_counted_by_its_definitions(root):
    counted = house.house(root, "house_of_test")
    # `script` and `__init__` neither import nor are imported.
    assert counted.rooms == [
        "board",
        "chain.py",
        "devices.py",
        "ground.py",
        "phone.py",
        "record.py",
        "start.py",
    ]
    assert len(counted.imports) == 5
    assert counted.floors["start.py"] == counted.floors["phone.py"] == 2
    assert counted.circles == []
    assert counted.upward == []


def test_a_circle_that_is_closed_inside_of_a_function_leads_upward(root):
    chain = root / "house_of_test" / "chain.py"
    chain.write_text("def first(v):\n    from house_of_test import start\n")
    counted = house.house(root, "house_of_test")
    assert counted.circles == [
        ["house_of_test/chain.py", "house_of_test/start.py"]
    ]
    assert counted.upward == [("chain.py", "start.py")]


@pytest.mark.parametrize(
    ("via", "methods", "expected"),
    [
        # The arguments come before the call, `ground` again for its table.
        ("", False, "start ground chain ground"),
        ("phone", False, "start ground chain devices phone ground"),
        ("phone", True, "start ground chain devices phone record ground"),
    ],
)
def test_stays_are_counted_by_their_definition(root, via, methods, expected):
    visits = house.count_stays(
        root, "house_of_test/start.py:begin", via=via, methods=methods
    )
    assert visits.total() == len(expected.split())
    assert {Path(path).stem for path in visits} == set(expected.split())
