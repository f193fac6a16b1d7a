"""The README does what it says, and every link of the pages leads somewhere."""

import importlib
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import keras
import numpy as np
import pytest

from tflite_export.cli.commands import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS = FENCED.findall(README)
COMMANDS = [
    line
    for language, text in BLOCKS
    if language == "console"
    for line in text.splitlines()
]
# What each command of the exporter shows.
SHOWN = {
    "export model.keras model.tflite": "3 of 3 tensors equal",
    "export model.keras kws.tflite": "also written: kws/",
    "compress": "3 of 3 tensors equal",
    "verify": "3 of 3 tensors equal",
    "check": "ethos-u: ok",
    "inspect": "CONV_2D",
    "benchmark": "old.tflite",
    "gate": "model.tflite: ok",
}


class Batches(keras.utils.PyDataset):
    """25 batches: the 12 epochs of the README are 300 steps of them."""

    def __init__(self):
        super().__init__()
        images = np.random.default_rng(0).normal(size=(25, 16, 8, 8, 1))
        self._images = images.astype("float32")

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        images = self._images[index]
        return images, images.mean(axis=(1, 2, 3)) > 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which the first block of the README has run."""
    folder = tmp_path_factory.mktemp("readme")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.Conv2D(16, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2),
        ]
    )
    model.save(folder / "float.keras")
    np.save(folder / "x.npy", np.concatenate([x for x, _ in Batches()][:3]))
    # The block runs as it is printed. It finds float.keras in the folder, and
    # here the three names that it leaves to the reader.
    names = {
        "train": Batches(),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
    }
    block = next(text for language, text in BLOCKS if language == "python")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(block, "README.md", "exec"), names)
    shutil.copy(folder / "model.tflite", folder / "old.tflite")
    return folder


def test_first_block_writes_a_model_and_its_file(folder):
    assert (folder / "model.keras").stat().st_size > 0
    assert (folder / "model.tflite").stat().st_size > 0


@pytest.mark.parametrize("name", SHOWN)
def test_command_runs(folder, monkeypatch, capfd, name):
    monkeypatch.chdir(folder)
    # Emulated phones take their time; tests/tflite_export/arm has them.
    monkeypatch.setenv("TFLITE_EXPORT_ARM_ROOT", str(folder))
    command = next(c for c in COMMANDS if c.startswith(f"tflite-export {name}"))

    code = main(shlex.split(command, comments=True)[1:])

    shown = capfd.readouterr()
    assert code == 0, shown.out + shown.err
    assert SHOWN[name] in shown.out


def test_other_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    for command in COMMANDS:
        program, *words = shlex.split(command, comments=True)
        if program == "make":
            (target,) = words
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), command
        elif program == "pip":
            verb, wanted = words
            names = re.fullmatch(r"\.\[([\w,]+)\]", wanted)[1].split(",")
            assert verb == "install"
            assert set(names) <= set(EXTRAS), command
        else:
            assert program == "tflite-export", command
            shown = [n for n in SHOWN if " ".join(words).startswith(n)]
            assert shown, command


def test_table_has_every_extra():
    table = README.partition("| extra |")[2].partition("\n\n")[0]
    first_cells = [row.split("|")[1] for row in table.splitlines()[2:]]
    named = re.findall(r"`([\w]+)`", " ".join(first_cells))

    assert sorted(named) == sorted(EXTRAS)


def without_code(page):
    return re.sub(r"`[^`\n]*`", "", FENCED.sub("", page.read_text()))


def links(page):
    """The links of a page that stay in the repository."""
    found = re.findall(
        r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"", without_code(page)
    )
    targets = (link or image for link, image in found)
    return [link for link in targets if not link.startswith("http")]


def anchors(page):
    """The anchors that a repository browser gives to the headings."""
    headings = re.findall(
        r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE
    )
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


@pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: str(page.relative_to(ROOT))
)
def test_links_lead_to_files_and_headings(page):
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target), link


def test_index_has_every_page():
    index = ROOT / "docs" / "README.md"
    listed = {index.parent / link for link in links(index)}

    assert set(ROOT.glob("docs/*.md")) - {index} <= listed


def test_pages_begin_with_their_question():
    for page in sorted(ROOT.glob("docs/*.md")):
        # It is written by `make architectures`.
        if page.name == "architectures.md":
            continue
        _, _, text = page.read_text().partition("\n\n")
        assert text.startswith("This page answers"), page.name
        assert "?" in text.partition("\n\n")[0], page.name


def test_equations_of_the_method_name_code_and_tests_that_exist():
    rows = re.findall(
        r"^\| [(F][^|]*\| [^|]* \| `([^`]*)` \| `(test_\w+)` \|$",
        (ROOT / "docs" / "method.md").read_text(),
        re.MULTILINE,
    )
    assert len(rows) == 9
    sources = [p.read_text() for p in (ROOT / "tests").rglob("test_*.py")]
    for code, test in rows:
        assert any(f"def {test}(" in text for text in sources), test
        if "/" in code:
            assert (ROOT / code).exists(), code
            continue
        module, _, name = code.rpartition(".")
        assert hasattr(importlib.import_module(module), name), code
