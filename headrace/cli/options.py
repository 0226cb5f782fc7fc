"""Options made from the table in `headrace.settings`, so that a flag, its variable, default and help are written once.

Every command that needs settings takes them through `with_settings`; those it does not name stay with the environment
and the defaults. Wrong values raise UsageError, which `main` turns into one sentence and exit code 2.
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
    """Gives the command an option for each named setting, and calls it with `settings` as its first argument."""
    names = tuple(names)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def command(**given: Any) -> Any:
            settings = Settings.load({name: given.pop(name) for name in names})
            return function(settings, **given)

        for name in reversed(names):
            _option(_TABLE[name])(command)
        return command

    return decorate


def with_a_kafka(settings: Settings) -> Settings:
    """For a person's commands, which mean the broker of the `up` beside them when no other is named."""
    return settings if settings.kafka else replace(settings, kafka=settings.embedded_kafka)


def _option(setting: Field[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    default = setting.default
    # Values stay text here: one place converts and checks them, whether they come from a flag or a variable.
    shown = "none" if default == "" else ("off" if default is False else str(default))
    text = f"{setting.metadata['help']}  [{setting.metadata['env']}; default: {shown}]"
    flag = f"--{setting.name.replace('_', '-')}"
    if isinstance(default, bool):
        return click.option(f"{flag}/--no-{flag[2:]}", setting.name, default=None, help=text)
    metavar = {int: "N", float: "SECONDS"}.get(type(default), "PATH" if setting.name == "data" else "TEXT")
    return click.option(flag, setting.name, default=None, metavar=metavar, help=text)
