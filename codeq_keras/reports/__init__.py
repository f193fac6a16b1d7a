"""Reports on quantized models; `__all__` is what an exporter's pages take."""

from codeq_keras.reports import charts
from codeq_keras.reports.page import (
    Block,
    Cell,
    Fact,
    Facts,
    Figure,
    Figures,
    Grid,
    Lines,
    write_page,
)
from codeq_keras.reports.report_page import bytes_grid, report_blocks

__all__ = [
    "Block",
    "Cell",
    "Fact",
    "Facts",
    "Figure",
    "Figures",
    "Grid",
    "Lines",
    "bytes_grid",
    "charts",
    "report_blocks",
    "write_page",
]
