"""The picture of the measured starts, as one HTML file with everything in it."""

from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .starts import Start

_PANELS = (
    ("seconds", "seconds to start"),
    ("cpu_s", "CPU seconds to start"),
    ("memory_mib", "MiB of memory, peak"),
    ("disk_mib", "MiB on disk"),
)


def write_chart(rows: Sequence[Start], path: Path) -> None:
    """Writes a line for each role and way to start, over the number of tasks."""
    figure = make_subplots(cols=len(_PANELS), rows=1, subplot_titles=[title for _, title in _PANELS])
    kinds = sorted({(r.role, r.how) for r in rows})
    for column, (field, _) in enumerate(_PANELS, 1):
        for number, (role, how) in enumerate(kinds):
            some = [r for r in rows if (r.role, r.how) == (role, how)]
            figure.add_trace(
                go.Scatter(
                    x=[r.tasks for r in some],
                    y=[getattr(r, field) for r in some],
                    name=f"{role}, {how}",
                    legendgroup=f"{role} {how}",
                    showlegend=column == 1,
                    mode="lines+markers",
                    line={"color": f"hsl({360 * number // len(kinds)}, 60%, 45%)"},
                ),
                row=1,
                col=column,
            )
    figure.update_xaxes(title="tasks that have ended", type="log")
    figure.update_yaxes(type="log")
    figure.update_layout(template="plotly_white", width=1500, height=520)
    figure.write_html(path, include_plotlyjs=True)
