"""Every architecture of the table: trained, saved, exported exactly, run."""

import json

import pytest
from architectures import run
from architectures.models import COLUMNS, ROWS
from architectures.row import measure

# One of each kind of rewrite: BatchNormalization before Dense in a nested
# model, Embedding tables and LayerNormalization, a rolled recurrent layer.
QUICK = ("nested_shared", "text_transformer", "gru")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in ROWS
    ],
)
def test_row_is_green_or_has_a_documented_reason(name):
    cells = measure(name)

    # The column "jax" needs a process of its own.
    red = {c: cells[c] for c in COLUMNS if c in cells and not cells[c]["ok"]}
    assert red.keys() <= ROWS[name].known.keys(), red


def test_table_in_the_docs_is_that_of_the_measurements():
    table = json.loads(run.TABLE.read_text())

    assert run.TABLE.with_suffix(".md").read_text() == run.render(table)
    assert set(table) <= set(ROWS)
