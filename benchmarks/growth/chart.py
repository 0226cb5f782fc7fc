"""The picture of the measured starts: a panel for each figure, a line for each role and way to start.

Both axes are logarithmic, so what grows with the number of tasks is a slope, and what does not is level. Errors are
those of `benchmarks.figure_file`.
"""

from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from benchmarks.figure_file import write_figure

from .starts import Start

_PANELS = (
    ("seconds", "seconds to start"),
    ("cpu_s", "CPU seconds to start"),
    ("memory_mib", "MiB of memory, peak"),
    ("disk_mib", "MiB on disk"),
)
_COLORS = {"storekeeper": "#d9480f", "gateway": "#1c7ed6", "worker-1": "#2b8a3e", "audit": "#868e96"}
_DASHES = {"first": "solid", "takeover": "dash", "restart": "dot"}


def write_chart(rows: Sequence[Start], path: Path) -> None:
    """Writes an `.html` or `.svg` file."""
    figure = make_subplots(cols=len(_PANELS), rows=1, subplot_titles=[title for _, title in _PANELS])
    for column, (field, _) in enumerate(_PANELS, 1):
        for role, how in dict.fromkeys((r.role, r.how) for r in rows):
            some = [r for r in rows if (r.role, r.how) == (role, how)]
            figure.add_trace(
                go.Scatter(
                    x=[r.tasks for r in some],
                    y=[getattr(r, field) for r in some],
                    name=f"{role.removesuffix('-1')}, {how}",
                    legendgroup=f"{role} {how}",
                    showlegend=column == 1,
                    mode="lines+markers",
                    line={"color": _COLORS[role], "dash": _DASHES[how]},
                ),
                row=1,
                col=column,
            )
    figure.update_xaxes(title="tasks that have ended", type="log", tickvals=sorted({r.tasks for r in rows}))
    figure.update_yaxes(type="log", dtick=1)
    figure.update_annotations(font_size=12)
    figure.update_layout(template="plotly_white", width=1500, height=420, font={"size": 11})
    figure.update_layout(margin={"l": 50, "r": 20, "t": 50, "b": 30})
    write_figure(figure, path)
