"""Writes a figure of a benchmark to a file: called by what draws the benchmarks' pictures.

An `.html` file has everything in it. For an `.svg` file, as the documents show it, the installed Chromium draws the
same page; UsageError when there is none.
"""

import tempfile
from pathlib import Path
from urllib.parse import unquote

import plotly.graph_objects as go

from infra.chromium import chromium


def write_figure(figure: go.Figure, path: Path) -> None:
    """Writes the figure, by the file's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".html":
        figure.write_html(path, include_plotlyjs=True)
    else:
        path.write_text(_svg(figure))


def _svg(figure: go.Figure) -> str:
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = Path(folder) / "picture.html"
        figure.write_html(page_file, include_plotlyjs=True, div_id="picture")
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(page_file.as_uri())
        url: str = page.evaluate("Plotly.toImage('picture', {format: 'svg'})")
        browser.close()
    return unquote(url.partition(",")[2])  # of the data URL
