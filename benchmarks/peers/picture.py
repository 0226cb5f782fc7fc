"""The picture of a table: a panel for each figure, a bar for each system, with the spread over the rounds.

Errors are those of `benchmarks.figure_file`.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from benchmarks.figure_file import write_figure

from .rows import ROWS, Row
from .table import Cell, Table, number

_SHOWN = (
    "A_nominal_per_s",
    "A_submitted_per_s",
    "K_light_busy",
    "D_p50_ms",
    "D_p99_ms",
    "U_many_ms",
    "U_lone_ms",
    "E_displacement",
    "P_high_s",
    "F2_s",
    "S_posts_16_per_s",
    "H_pss_mib",
)
_COLUMNS, _PANEL_WIDTH, _BAR_HEIGHT, _GAP = 3, 420, 22, 70
_WIDE = 20  # from this ratio on, a panel has a logarithmic axis
_OURS, _PEER, _LIMIT = "#d9480f", "#868e96", "#ced4da"


def write_picture(table: Table, path: Path) -> None:
    """Writes the picture, by the file's suffix."""
    figure = _draw(
        table, [row for row in ROWS if row.figure in _SHOWN and any(row.figure in c for c in table.values())]
    )
    write_figure(figure, path)


def _draw(table: Table, rows: Sequence[Row]) -> go.Figure:
    lines = max(1, math.ceil(len(rows) / _COLUMNS))
    titles = [f"{row.title} ({'less' if row.lower else 'more'} is better)" for row in rows]
    height = lines * (_BAR_HEIGHT * len(table) + _GAP) + _GAP
    spacing = {"horizontal_spacing": 0.11, "vertical_spacing": _GAP / height}
    figure = make_subplots(rows=lines, cols=_COLUMNS, subplot_titles=titles, **spacing)
    for panel, row in enumerate(rows):
        place = {"row": panel // _COLUMNS + 1, "col": panel % _COLUMNS + 1}
        cells = {system: c for system, figures in table.items() if (c := figures.get(row.figure)) and c.values}
        figure.add_trace(_bars(cells), **place)
        figure.update_yaxes(autorange="reversed", **place)
        if _is_wide(cells):
            figure.update_xaxes(type="log", **place)
    figure.update_annotations(font_size=12)
    figure.update_layout(template="plotly_white", showlegend=False, width=_COLUMNS * _PANEL_WIDTH, height=height)
    figure.update_layout(margin={"l": 90, "r": 20, "t": 50, "b": 30}, font={"size": 11})
    return figure


def _bars(cells: dict[str, Cell]) -> go.Bar:
    medians = [c.median or 0.0 for c in cells.values()]
    return go.Bar(
        x=medians,
        y=list(cells),
        orientation="h",
        text=[number(median) for median in medians],
        textangle=0,
        insidetextanchor="start",  # the spread is at the other end
        marker_color=[_color(system) for system in cells],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [max(c.values) - m for c, m in zip(cells.values(), medians, strict=True)],
            "arrayminus": [m - min(c.values) for c, m in zip(cells.values(), medians, strict=True)],
            "thickness": 1,
        },
    )


def _is_wide(cells: dict[str, Cell]) -> bool:
    """Whether the smallest could not be seen beside the largest."""
    medians = [c.median for c in cells.values() if c.median]
    return bool(medians) and max(medians) > _WIDE * min(medians)


def _color(system: str) -> str:
    if system.startswith("headrace"):
        return _OURS
    return _LIMIT if system.startswith("raw_") else _PEER
