"""Options made from the table in `headrace.settings`, so that flag, variable, default and help are written once.

Commands take their settings through `with_settings`. Settings without an option come from the environment or the
defaults. UsageError for a wrong value, which `main` turns into one sentence and exit code 2. A variable that nothing
reads is a warning.
"""

import difflib
import functools
import os
from collections.abc import Callable, Iterable
from dataclasses import Field, fields, replace
from typing import Any

import click

from headrace.settings import Settings

KAFKA = ("kafka", "embedded_kafka", "kafka_security", "topic_prefix")
GATEWAY = ("http",)
_TABLE: dict[str, Field[Any]] = {f.name: f for f in fields(Settings)}
ALL = tuple(_TABLE)
_PREFIX = "HEADRACE_"
# Read by others than Settings: setup and downloads, `headrace health`, the compose file.
_OTHERS = ("HEADRACE_CACHE", "HEADRACE_ROLE", "HEADRACE_IMAGE")
_SETTINGS = tuple(f.metadata["env"] for f in _TABLE.values())
_VARIABLES = {*_SETTINGS, *(f"{name}_FILE" for name in _SETTINGS), *_OTHERS}
_OF_TESTS = ("HEADRACE_TEST_", "HEADRACE_FAULTS_", "HEADRACE_FUZZ_")


def with_settings(
    names: Iterable[str] = ALL, *, pass_given: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds an option for each named setting, and calls the command with `settings` as its first argument.

    `pass_given`: also with `given`, the names of the settings that are not left at their defaults.
    """
    names = tuple(names)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def command(**options: Any) -> Any:
            own = {name: options.pop(name) for name in names}
            warn_of_unknown_variables(os.environ)
            settings = Settings.load(own)
            return function(settings, **options, **({"given": Settings.given(own)} if pass_given else {}))

        for name in reversed(names):
            _option(_TABLE[name])(command)
        return command

    return decorate


def warn_of_unknown_variables(environ: Iterable[str]) -> None:
    """Names each variable HEADRACE_… that nothing reads on stderr, with the nearest one that there is."""
    for name in unknown_variables(environ):
        near = difflib.get_close_matches(name.removeprefix(_PREFIX), [v.removeprefix(_PREFIX) for v in _VARIABLES], 1)
        hint = f": did you mean {_PREFIX}{near[0]}?" if near else "; `headrace up --help` lists those there are"
        click.echo(f"headrace: warning: no setting is called {name}{hint}", err=True)


def unknown_variables(names: Iterable[str]) -> list[str]:
    """Those that begin with HEADRACE_ and that nothing reads, sorted."""
    return sorted(n for n in names if n.startswith(_PREFIX) and n not in _VARIABLES and not n.startswith(_OF_TESTS))


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
