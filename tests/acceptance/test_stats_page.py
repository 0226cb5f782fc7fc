"""A node's stats page in a real browser, over the whole product: it shows a task while it runs."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from infra.local.cluster import LocalCluster
from tests.acceptance.conftest import PAGE_TIMEOUT_MS, Client, open_page


@pytest.fixture
def page(browser: Browser, cluster: LocalCluster) -> Iterator[Page]:
    with open_page(browser, f"http://{cluster.settings.stats_http}/", color_scheme="dark") as found:
        yield found


def test_the_stats_page_shows_a_running_task_and_then_its_end(page: Page, client: Client) -> None:
    expect(page.locator("#state-text")).to_have_text("ready", timeout=PAGE_TIMEOUT_MS)
    row = page.locator("#kinds tr", has_text="fragile")
    expect(row).to_be_visible()
    task_id = client.submit("fragile", {"how": "raise", "attempts": 0, "seconds": 6})
    running = page.locator("#running tbody tr", has_text=task_id)
    expect(running).to_be_visible(timeout=PAGE_TIMEOUT_MS)
    expect(running.locator("svg rect")).to_have_count(2)
    expect(page.locator("#slots")).to_contain_text("of")
    expect(running).to_be_hidden(timeout=PAGE_TIMEOUT_MS)
    expect(row.locator("td").nth(1)).not_to_have_text("0", timeout=PAGE_TIMEOUT_MS)
    for chart in ("#rate", "#used", "#waiting"):
        expect(page.locator(f"{chart} svg")).to_be_visible()
    expect(page.locator("#rate .mark-done").first).to_be_visible()
    expect(page.locator("#partitions dt")).to_have_count(2)
