"""Options made from the table in `headrace.settings`, so that flag, variable, default and help are written once.

Commands take their settings through `with_settings`. Settings without an option come from the environment or the
defaults. UsageError for a wrong value, which `main` turns into one sentence and exit code 2.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import Field, fields, replace
from typing import Any

import click

from headrace.settings import Settings

KAFKA = ("kafka", "embedded_kafka", "kafka_security", "topic_prefix")
GATEWAY = ("http",)
_TABLE: dict[str, Field[Any]] = {f.name: f for f in fields(Settings)}
ALL = tuple(_TABLE)


def with_settings(names: Iterable[str] = ALL) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds an option for each named setting, and calls the command with `settings` as its first argument."""
    names = tuple(names)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def command(**options: Any) -> Any:
            settings = Settings.load({name: options.pop(name) for name in names})
            return function(settings, **options)

        for name in reversed(names):
            _option(_TABLE[name])(command)
        return command

    return decorate


def with_local_kafka(settings: Settings) -> Settings:
    """For commands that people type: without HEADRACE_KAFKA they mean the broker of the local `up`."""
    return settings if settings.kafka else replace(settings, kafka=settings.embedded_kafka)


def _option(setting: Field[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    default, hidden = setting.default, setting.metadata["hidden"]
    # Values stay text here: Settings.load converts and checks them, like those from variables.
    shown = "none" if default == "" else ("off" if default is False else str(default))
    text = f"{setting.metadata['help']}  [{setting.metadata['env']}; default: {shown}]"
    flag = f"--{setting.name.replace('_', '-')}"
    if isinstance(default, bool):
        return click.option(f"{flag}/--no-{flag[2:]}", setting.name, default=None, help=text, hidden=hidden)
    metavar = {int: "N", float: "SECONDS"}.get(type(default), "PATH" if setting.name == "data" else "TEXT")
    return click.option(flag, setting.name, default=None, metavar=metavar, help=text, hidden=hidden)
