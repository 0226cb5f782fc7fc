"""The web page in a real browser, over the whole product: submit, watch, read the result."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Error, Page, expect

from infra.local.cluster import LocalCluster
from tests.acceptance.conftest import PAGE_TIMEOUT_MS, open_page


@pytest.fixture
def page(browser: Browser, cluster: LocalCluster) -> Iterator[Page]:
    """The page, opened and with its kinds loaded."""
    # Chromium logs every refused submission as an error; one test submits an invalid one.
    with open_page(browser, cluster.gateway_url, but="the server responded with a status of 4") as found:
        expect(found.locator("#kind option[value=prime]")).to_be_attached(timeout=PAGE_TIMEOUT_MS)
        yield found


def choose(page: Page, kind: str) -> None:
    page.get_by_label("Task kind", exact=True).select_option(kind)


def test_a_task_is_submitted_watched_and_its_result_shown(page: Page) -> None:
    choose(page, "prime")
    page.get_by_label("upper_bound").fill("100")
    page.get_by_role("button", name="Run", exact=True).click()
    way = page.locator(".way")
    for step in ("Received", "Started", "Completed"):
        expect(way.get_by_text(step, exact=True)).to_be_visible(timeout=PAGE_TIMEOUT_MS)
    expect(page.locator("#outcome pre")).to_contain_text("2, 3, 5, 7, 11", timeout=PAGE_TIMEOUT_MS)
    task_id = page.url.rpartition("/")[2]
    row = page.locator("#recent tr", has_text=task_id[:8])
    expect(row).to_contain_text("completed", timeout=PAGE_TIMEOUT_MS)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.path().read_text().startswith("[2,3,5,7")


def test_an_invalid_field_shows_its_error(page: Page) -> None:
    choose(page, "prime")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator("#payload .error")).to_have_text("enter a value")
    page.get_by_label("upper_bound").fill("100")
    page.get_by_label("Directory").fill("../up")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_label("Directory")).to_have_attribute("aria-invalid", "true")
    page.get_by_label("Directory").fill("demo")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator(".way .completed")).to_be_visible(timeout=PAGE_TIMEOUT_MS)


def test_a_big_integer_keeps_all_its_digits(page: Page) -> None:
    choose(page, "prime")
    page.get_by_label("upper_bound").fill(f"{2**53 + 1}")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator("#payload .error")).to_contain_text(f"{2**53 + 1} is greater", timeout=PAGE_TIMEOUT_MS)
    round_trip = "async (text) => JSON.stringify((await import('/page/json.js')).parseExact(text))"
    assert page.evaluate(round_trip, f'{{"a":[{2**70},-0.5]}}') == f'{{"a":[{2**70},-0.5]}}'
    with pytest.raises(Error, match="a number is too large"):
        page.evaluate(round_trip, "[1e400]")


def test_a_task_that_fails_shows_why(page: Page) -> None:
    choose(page, "fragile")
    page.locator("#payload-how").select_option(label="raise")
    page.locator("#payload-attempts").fill("9")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator(".way .failed")).to_be_visible(timeout=PAGE_TIMEOUT_MS)
    expect(page.locator("#outcome .error")).to_contain_text("failed")
    expect(page.locator("#outcome")).to_contain_text("attempt 1: error")
    page.get_by_role("button", name="Log", exact=True).click()
    expect(page.get_by_label("log", exact=True)).to_contain_text("attempt 3 goes wrong: raise", timeout=PAGE_TIMEOUT_MS)


def test_nodes_and_kinds_are_shown(page: Page) -> None:
    expect(page.locator("#health")).to_have_text("ready", timeout=PAGE_TIMEOUT_MS)
    expect(page.locator("#nodes")).to_contain_text("slots busy")
    expect(page.locator("#kinds")).to_contain_text("compression")


def test_the_form_shows_the_fields_of_every_kind(page: Page) -> None:
    for kind in ("compression", "conversion", "fragile", "prime"):
        choose(page, kind)
        expect(page.locator("#payload .field").first).to_be_visible()
