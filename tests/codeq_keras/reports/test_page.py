"""HTML reports: one file, all numbers on it, readable on a phone."""

import dataclasses
import re
import shutil
import subprocess
from html.parser import HTMLParser

import keras
import numpy as np
import pytest
from support.training import compile_and_fit

import codeq_keras

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# Runs in the page: its width on this screen, and two colours.
PROBE = """<script>addEventListener("load", () => {
  const paint = getComputedStyle(document.body);
  const root = document.documentElement;
  document.body.dataset.probe = [root.scrollWidth, root.clientWidth,
    paint.backgroundColor, paint.color].join(";");
});</script></body>"""


class Page(HTMLParser):
    """The texts of a page, the rows of its tables, and what it refers to."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.rows, self.references = [], [], []
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.references += [v for k, v in attrs if k in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        self.texts.append(data.strip())
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


@pytest.fixture(scope="module")
def trained():
    layers = keras.layers
    rng = np.random.default_rng(0)
    data = rng.normal(size=(64, 8, 8, 1)), rng.integers(0, 4, 64)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, name="a_rather_long_name_of_a_convolution"),
            layers.Flatten(),
            layers.Dense(4, name="head"),
        ]
    )
    qmodel = codeq_keras.quantize_model(model)
    history = compile_and_fit(
        qmodel, data, epochs=2, callbacks=[codeq_keras.CompressionLogger()]
    )
    return codeq_keras.report(qmodel), history


@pytest.fixture(scope="module")
def page(trained, tmp_path_factory):
    report, history = trained
    path = tmp_path_factory.mktemp("page") / "report.html"
    report.to_html(path, history=history)
    return path


def test_every_kernel_is_on_the_page_with_its_numbers(trained, page):
    report, history = trained
    found = Page(page.read_text())

    rows = {row[0]: row[1:] for row in found.rows if row}
    for kernel in report.layers:
        cells = rows[kernel.path]
        assert f"{kernel.num_weights:,}" in cells
        assert f"{kernel.num_macs:,}" in cells
        assert f"{kernel.sparsity:.1%}" in cells
        assert str(kernel.bit_width) in cells
        assert f"{kernel.size_bytes:,}" in cells
    assert f"{report.relative_bops:.2%}" in found.texts
    losses = history.history["loss"]
    assert f"loss {losses[-1]:.3g}" in found.texts
    # One histogram a kernel.
    assert found.tags.count("path") == len(report.layers)


def test_names_of_layers_are_no_markup(trained, tmp_path):
    report, name = trained[0], "<b>a & b</b><script>"
    named = [dataclasses.replace(kernel, path=name) for kernel in report.layers]
    path = tmp_path / "report.html"
    dataclasses.replace(report, layers=tuple(named)).to_html(path)

    found = Page(path.read_text())
    assert not {"b", "script"} & set(found.tags)
    assert [row[0] for row in found.rows if row[0] == name] == [name, name]


def test_page_needs_nothing_else(page):
    text = page.read_text()
    assert Page(text).references == []
    assert not re.search(r"https?:|url\(|@import", text)


def test_zeros_are_in_the_interval_that_is_shaded(trained):
    for kernel in trained[0].layers:
        low, high = kernel.zero_interval
        levels = sorted(abs(v) for v in kernel.levels if v)
        assert -levels[0] < low <= high < levels[0]


@pytest.mark.parametrize("path", ["report.png", "missing/report.html", 3])
def test_wrong_path_is_refused(trained, path):
    with pytest.raises(ValueError, match=r"must end in '\.html', in an exist"):
        trained[0].to_html(path)


@pytest.mark.skipif(CHROMIUM is None, reason="No Chromium is installed.")
def test_page_fits_a_phone_and_has_a_dark_form(page, tmp_path):
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text().replace("</body>", PROBE))
    looks = [
        subprocess.run(
            [
                *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu"),
                *("--dump-dom", "--window-size=390,844", *options),
                probed.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout
        for options in ([], ["--blink-settings=preferredColorScheme=0"])
    ]
    widths, papers = [], []
    for look in looks:
        (values,) = re.findall(r'data-probe="([^"]*)"', look)
        width, screen, *colors = values.split(";")
        widths.append(int(width) - int(screen))
        papers.append(colors)
    assert widths == [0, 0]
    assert papers[0] != papers[1]
