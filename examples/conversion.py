"""Converts between CSV, TSV, JSON and YAML; the result is text.

    {"name": "conversion", "payload": {"text": "a,b\\n1,2\\n", "source": "csv", "target": "json"}, "directory": "demo"}

A table becomes a list of objects, and a list of objects a table. Text that cannot be converted fails at once with an
error that names the place, because another attempt would not help.
"""

import csv
import datetime
import io
import json
import math
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from headrace import task
from headrace.errors import Invalid

Format = Literal["csv", "tsv", "json", "yaml"]

MOST_VALUES = 1_000_000  # a YAML text of some lines can expand to billions of values by aliases
MOST_LEVELS = 100
_DELIMITERS = {"csv": ",", "tsv": "\t"}
_JSON_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_JSON_NUMBER = re.compile(_JSON_INTEGER.pattern + r"(\.[0-9]+)?([eE][-+]?[0-9]+)?")


@task(timeout_s=600)
def conversion(
    text: Annotated[str, Field(description="text to convert")],
    source: Annotated[Format, Field(description="its format")],
    target: Annotated[Format, Field(description="the format to convert to")],
    numbers: Annotated[bool, Field(description="read table cells that are numbers as numbers, not as text")] = False,
) -> str:
    """Converts `text` from one format to another; cells of tables stay text unless `numbers` is set."""
    try:
        values = _read(text.removeprefix("\ufeff"), source)
        if numbers and source in _DELIMITERS:
            values = [{name: _number(cell) for name, cell in row.items()} for row in values]
        result = _WRITERS[target](_plain(values, 0, [MOST_VALUES]))
        result.encode()
    except RecursionError:
        raise Invalid(f"the {source} is nested too deeply: {MOST_LEVELS} levels at most") from None
    except UnicodeEncodeError as e:
        raise Invalid(f"the text has half of a surrogate pair at {e.start}, which UTF-8 cannot encode") from None
    return result


def _read(text: str, source: Format) -> Any:
    if source in _DELIMITERS:
        return _read_table(text, _DELIMITERS[source])
    try:
        if source == "json":
            return json.loads(text, parse_constant=_refuse_constant)
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe loaders
    except json.JSONDecodeError as e:
        raise Invalid(f"not JSON, line {e.lineno} column {e.colno}: {e.msg}") from None
    except (yaml.YAMLError, ValueError) as e:  # ValueError: a date such as 2026-13-45
        raise Invalid(f"not {source}: {e}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _read_table(text: str, delimiter: str) -> list[dict[str, str | None]]:
    """Rows as objects with the first line's names. Missing cells at a row's end are null; extra cells are an error."""
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[dict[str, str | None]] = []
    try:
        names = next(lines, [])
        for number, name in enumerate(names, 1):
            if not name.strip():
                raise Invalid(f"column {number} has no name in the first line")
            if names.index(name) != number - 1:
                raise Invalid(f"two columns are named {name!r}")
        for cells in lines:
            if not cells:  # an empty line
                continue
            if len(cells) > len(names):
                raise Invalid(f"line {lines.line_num} has {len(cells)} cells, the first line names {len(names)}")
            rows.append(dict(zip(names, [*cells, *[None] * (len(names) - len(cells))], strict=True)))
    except csv.Error as e:
        raise Invalid(f"line {lines.line_num}: {e}") from None
    return rows


def _number(cell: str | None) -> int | float | str | None:
    """The cell as a JSON number, or the cell itself if it is none: 007, 1_000 and 1e999 stay text."""
    if cell is None or not _JSON_NUMBER.fullmatch(cell):
        return cell
    if _JSON_INTEGER.fullmatch(cell):
        return int(cell) if len(cell) <= 300 else cell
    return float(cell) if math.isfinite(float(cell)) else cell


def _plain(value: Any, level: int, budget: list[int]) -> Any:
    """The value with JSON's types only; Invalid when aliases or nesting exceed the limits."""
    budget[0] -= 1
    if budget[0] < 0 or level > MOST_LEVELS:
        raise Invalid(f"more than {MOST_VALUES} values or {MOST_LEVELS} levels: YAML aliases are not expanded further")
    if isinstance(value, dict):
        return {_name(k): _plain(v, level + 1, budget) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v, level + 1, budget) for v in value]
    if isinstance(value, datetime.date):  # datetime too
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, float) and not math.isfinite(value):
        raise Invalid(f"{value} is not a JSON number")
    return value


def _name(key: Any) -> str:
    if isinstance(key, str):
        return key
    return key.isoformat() if isinstance(key, datetime.date) else json.dumps(key)


def _to_json(values: Any) -> str:
    return json.dumps(values, ensure_ascii=False, indent=2) + "\n"


def _to_yaml(values: Any) -> str:
    text: str = yaml.dump(
        values, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), allow_unicode=True, sort_keys=False
    )
    return text


def _to_table(delimiter: str) -> Callable[[Any], str]:
    def write(values: Any) -> str:
        rows = [
            row if isinstance(row, dict) else {"value": row}
            for row in (values if isinstance(values, list) else [values])
        ]
        names = list(dict.fromkeys(name for row in rows for name in row))
        out = io.StringIO(newline="")
        writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
        if names:
            writer.writerow(names)
        writer.writerows([_cell(row.get(name)) for name in names] for row in rows)
        return out.getvalue()

    return write


def _cell(value: Any) -> str:
    """Text as it is, null as an empty cell, everything else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_WRITERS: dict[Format, Callable[[Any], str]] = {
    "csv": _to_table(_DELIMITERS["csv"]),
    "tsv": _to_table(_DELIMITERS["tsv"]),
    "json": _to_json,
    "yaml": _to_yaml,
}
