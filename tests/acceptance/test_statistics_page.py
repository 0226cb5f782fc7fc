"""The statistics page in a real browser: its charts hold the database's numbers, and the audit's findings are red."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from headrace.settings import Settings
from headrace.storage.mysql import Database
from infra.local.database import EmbeddedDatabase
from spark_analytics.migrate import migrate
from tests.acceptance.conftest import PAGE_TIMEOUT_MS, open_page
from tests.rigs.gateway import Gateway

LOST = "0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a11"


@pytest.fixture
def gateway(kafka_settings: Settings, topics: str, mariadb: EmbeddedDatabase, database: Database) -> Iterator[Gateway]:
    found = Gateway(replace(kafka_settings, database=mariadb.url)).start(until_ready=False)
    yield found
    found.stop()


@pytest.fixture
def page(browser: Browser, gateway: Gateway) -> Iterator[Page]:
    with open_page(browser, f"{gateway.url}/stats") as found:
        yield found


def fill(database: Database) -> None:
    migrate(database)
    connection = database.connect()
    with connection.cursor() as cursor:
        for name, node, count in (("prime", "a", 3), ("prime", "b", 4), ("zip", "a", 5)):
            for table in ("counts_minute", "counts_hour"):
                hour = "DATE_FORMAT(UTC_TIMESTAMP(), '%%Y-%%m-%%d %%H:00')"
                values = f"VALUES ({hour}, 'completed', '', %s, %s, %s, 0, 9)"
                cursor.execute(f"INSERT INTO {table} {values}", (name, node, count))
        cursor.execute("INSERT INTO audits VALUES (UTC_TIMESTAMP(3), UTC_TIMESTAMP(3), 13, 12, 0, 0, 0, 1, 0, TRUE)")
        cursor.execute(
            "INSERT INTO audit_findings VALUES (%s, 'lost', 'completed', UTC_TIMESTAMP(3), NULL, 'gone')", (LOST,)
        )
    connection.commit()
    connection.close()


def drawn(page: Page, chart: str) -> dict[str, float]:
    """The chart's traces: name -> the sum of its values."""
    found: list[dict[str, Any]] = page.evaluate(
        f"(document.getElementById('{chart}').data || []).map(t => ({{name: t.name, y: Array.from(t.y)}}))"
    )
    return {t["name"]: sum(t["y"]) for t in found}


def wait_drawn(page: Page, chart: str, expected: dict[str, float]) -> None:
    """Polls from outside, since the page's policy forbids a wait inside it."""
    deadline = time.monotonic() + PAGE_TIMEOUT_MS / 1000
    while (found := drawn(page, chart)) != expected:
        assert time.monotonic() < deadline, found
        page.wait_for_timeout(50)


def colours(page: Page, chart: str) -> dict[str, str]:
    found: dict[str, str] = page.evaluate(
        f"Object.fromEntries(document.getElementById('{chart}').data.map(t => [t.name, t.marker.color]))"
    )
    return found


def test_an_empty_database_is_shown_as_such(page: Page) -> None:
    expect(page.locator("#state")).to_contain_text("nothing counted yet", timeout=PAGE_TIMEOUT_MS)
    expect(page.locator("#completed")).to_have_text("no data in this time range")
    expect(page.locator("#verdict")).to_have_text("No audit yet.")


def test_charts_show_the_tables_and_their_splits_and_the_audit_is_red(
    page: Page, gateway: Gateway, database: Database
) -> None:
    fill(database)
    page.reload()
    page.get_by_role("button", name="Day", exact=True).click()
    wait_drawn(page, "completed", {"completed": 12})
    page.get_by_role("button", name="Kind", exact=True).click()
    wait_drawn(page, "completed", {"prime": 7, "zip": 5})
    page.get_by_role("button", name="Node", exact=True).click()
    wait_drawn(page, "completed", {"a": 8, "b": 4})
    expect(page.locator("#audit.bad")).to_contain_text(LOST)
    expect(page.locator("#audit #verdict")).to_contain_text("1 lost")
    with page.expect_download() as download:
        page.locator("#csv-completed").click()
    assert "a,8" in download.value.path().read_text()


def test_a_kind_keeps_its_colour_whatever_else_is_shown(page: Page, gateway: Gateway, database: Database) -> None:
    fill(database)
    page.reload()
    page.get_by_role("button", name="Day", exact=True).click()
    page.get_by_role("button", name="Kind", exact=True).click()
    wait_drawn(page, "completed", {"prime": 7, "zip": 5})
    both = colours(page, "completed")
    assert both["prime"] != both["zip"]
    page.locator("#name").select_option("zip")
    wait_drawn(page, "completed", {"zip": 5})
    assert colours(page, "completed") == {"zip": both["zip"]}
