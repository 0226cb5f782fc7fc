"""The table of a run: medians, spread, and ratios to one system, as Markdown."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .rounds import Measurement
from .rows import ROWS, Row

_TEXT = 80  # characters of a text in the table


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure of one system over all rounds; `text` instead where it gave no number."""

    values: Sequence[float]
    text: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None


Table = dict[str, dict[str, Cell]]  # system -> figure -> its cell


def collect(measured: Iterable[Measurement]) -> Table:
    """All figures by system; the systems in the order in which they came."""
    values: dict[str, dict[str, list[float | str]]] = {}
    for one in measured:
        for figure, value in one.figures.items():
            values.setdefault(one.system, {}).setdefault(figure, []).append(value)
    return {system: {f: _cell(v) for f, v in figures.items()} for system, figures in values.items()}


def _cell(values: Sequence[float | str]) -> Cell:
    numbers = [float(v) for v in values if isinstance(v, int | float)]
    texts = dict.fromkeys(v for v in values if isinstance(v, str))
    return Cell(numbers, "; ".join(texts) if len(numbers) < len(values) else "")


def markdown(table: Table, baseline: str, rows: Sequence[Row] = ROWS) -> str:
    """A line for each figure that some system has: median (smallest to largest), and × its ratio to the baseline's."""
    systems = list(table)
    lines = ["| |" + "".join(f" {s} |" for s in systems), "|---|" + "---|" * len(systems)]
    for row in rows:
        cells = [table[s].get(row.figure) for s in systems]
        if any(cells):
            against = table.get(baseline, {}).get(row.figure)
            shown = [_show(c, None if s == baseline else against) for s, c in zip(systems, cells, strict=True)]
            lines.append(f"| {row.title} |" + "".join(f" {text} |" for text in shown))
    return "\n".join(lines) + "\n"


def _show(cell: Cell | None, against: Cell | None) -> str:
    if cell is None:
        return "–"
    median = cell.median
    if median is None:
        return " ".join(cell.text.replace("|", "/").split())[:_TEXT]
    text = number(median)
    if len(cell.values) > 1:
        text += f" ({number(min(cell.values))} to {number(max(cell.values))})"
    if against is not None and against.median:
        text += f" ×{median / against.median:.2f}"
    return f"{text}; {cell.text}" if cell.text else text


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def errors(table: Table) -> list[str]:
    """A line for each measurement that failed."""
    return [
        f"{system} {figure}: {cell.text}"
        for system, cells in table.items()
        for figure, cell in cells.items()
        if figure.endswith("error")
    ]
