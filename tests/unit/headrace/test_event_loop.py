"""Calls into an event loop from other threads, also into one that has ended."""

import ast
import asyncio
from pathlib import Path

import pytest

from headrace.event_loop import call_in_loop

ROOT = Path(__file__).parents[3]


async def test_a_running_loop_makes_the_call() -> None:
    loop, made = asyncio.get_running_loop(), asyncio.Event()
    assert await asyncio.to_thread(call_in_loop, loop, made.set)
    await asyncio.wait_for(made.wait(), 60)


def test_without_a_loop_or_with_one_that_has_ended_nothing_is_called_and_nothing_raised() -> None:
    loop, calls = asyncio.new_event_loop(), list[int]()
    loop.close()
    assert not call_in_loop(loop, calls.append, 1)
    assert not call_in_loop(None, calls.append, 2)
    assert calls == []


def test_a_loop_that_ends_between_a_look_and_the_call_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.new_event_loop()
    ends_now = loop.call_soon_threadsafe

    def call_soon_threadsafe(*arguments: object) -> object:
        loop.close()
        return ends_now(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "call_soon_threadsafe", call_soon_threadsafe)
    assert not call_in_loop(loop, print)


def test_every_role_calls_into_its_loop_by_this_function_alone() -> None:
    names = {"call_soon_threadsafe", "run_coroutine_threadsafe"}
    users = {
        str(file.relative_to(ROOT))
        for package in ("headrace", "agents", "gateway", "spark_analytics", "infra")
        for file in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in names
    }
    assert users == {"headrace/event_loop.py"}
