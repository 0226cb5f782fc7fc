"""Task kinds: Python functions registered under a name. Their type hints are the schema of the payload.

Authors write `@task`. Only the pool's children load task modules and call the functions; nodes and gateways know a kind
by its `KindInfo`. UsageError at the decorator for a function that cannot be a kind, so that its author sees it first.
"""

import contextlib
import hashlib
import inspect
import math
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from headrace.contract.printable import printable
from headrace.contract.progress import MAX_MESSAGE_CHARACTERS
from headrace.errors import UsageError
from headrace.event_loop import run_coroutine
from headrace.installation import part_folder
from headrace.kind_imports import import_kinds
from headrace.kind_rules import check_function, check_limits, code_of, place_of

if TYPE_CHECKING:
    from headrace.contract.cluster import KindInfo
    from headrace.payload.model import PayloadModel

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_TIMEOUT_S = 3600.0  # long enough for heavy work, short enough to end a hanging attempt the same day
DEFAULT_MAX_ATTEMPTS = 3
EXAMPLES = ("prime", "compression", "conversion", "fragile")


class Context:
    """What a task function can know about its attempt. A parameter annotated with it is not part of the payload.

    `id` is the task's, `attempt` counts from 1. `scratch` is the attempt's own directory, removed after the attempt.
    """

    def __init__(self, id: str, attempt: int, scratch: Path, report: Callable[[float, str], None]) -> None:
        self.id = id
        self.attempt = attempt
        self.scratch = scratch
        self._report = report
        self._fraction = 0.0

    def progress(self, fraction: float, message: str = "") -> None:
        """Reports to listeners how far the attempt is: `fraction` from 0 to 1. Never blocks and never fails.

        With a fraction that is no number, the last one stands. The message is cut to 1,000 characters.
        """
        with contextlib.suppress(Exception):  # whatever the methods of its arguments raise
            number = float(fraction)
            self._fraction = self._fraction if math.isnan(number) else min(1.0, max(0.0, number))
        text = ""
        with contextlib.suppress(Exception):
            text = "" if message is None else printable(str(message), MAX_MESSAGE_CHARACTERS)
        self._report(self._fraction, text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A registered function and the limits of its attempts. Fields as in `task`."""

    name: str
    function: Callable[..., Any]
    timeout_s: float
    max_attempts: int
    content_type: str | None
    suffix: str | None
    memory_mb: int | None
    reuse_process: bool
    context_parameter: str | None
    payload: "PayloadModel"

    def call(self, payload: bytes, context: Context) -> Any:
        """Runs the function on a payload (JSON bytes). Invalid names the field that does not match the type hints."""
        arguments = self.payload.read(payload)
        if self.context_parameter:
            arguments[self.context_parameter] = context
        value = self.function(**arguments)
        return run_coroutine(value) if inspect.iscoroutine(value) else value

    def info(self) -> "KindInfo":
        """What a node announces about the kind."""
        from headrace.contract.cluster import KindInfo

        return KindInfo(
            self.name,
            self.payload.schema.schema,
            timeout_s=self.timeout_s,
            max_attempts=self.max_attempts,
            content_type=self.content_type,
            suffix=self.suffix,
            memory_mb=self.memory_mb,
            description=inspect.getdoc(self.function) or "",
            version=_version(self.function),
            checked_on_node=not self.payload.schema.is_complete,
        )


_registry: dict[str, Kind] = {}


@overload
def task(function: F, /) -> F: ...
@overload
def task(
    *,
    name: str | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    max_attempts: int = DEFAULT_MAX_ATTEMPTS,
    content_type: str | None = None,
    suffix: str | None = None,
    memory_mb: int | None = None,
    reuse_process: bool = False,
) -> Callable[[F], F]: ...
def task(
    function: F | None = None,
    /,
    *,
    name: str | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    max_attempts: int = DEFAULT_MAX_ATTEMPTS,
    content_type: str | None = None,
    suffix: str | None = None,
    memory_mb: int | None = None,
    reuse_process: bool = False,
) -> F | Callable[[F], F]:
    """Registers a function as a task kind, under its own name or under `name`.

    An attempt may take `timeout_s` seconds and `memory_mb` MiB; a task has at most `max_attempts`. `content_type` and
    `suffix` (such as .csv) are those of the result; by default bytes are .bin, text is .txt, anything else is JSON.
    `reuse_process` lets attempts of such kinds follow one another in one process, as long as each leaves the process as
    it was: for functions of a few milliseconds that keep nothing for themselves. The function may be an `async def`.
    UsageError, with file and line, for a function or a limit that cannot work.
    """

    def register(f: F) -> F:
        kind_name = check_function(f, name)
        where = f"{kind_name}{place_of(f)}"
        check_limits(where, timeout_s, max_attempts, memory_mb, suffix, content_type)
        if not isinstance(reuse_process, bool):
            raise UsageError(f"@task {where}: reuse_process must be True or False, not {reuse_process!r}")
        payload, context_parameter = _payload_model(kind_name, where, f)
        _check_unique(kind_name, f)
        _registry[kind_name] = Kind(
            name=kind_name,
            function=f,
            timeout_s=float(timeout_s),
            max_attempts=max_attempts,
            content_type=content_type,
            suffix=suffix,
            memory_mb=memory_mb,
            reuse_process=reuse_process,
            context_parameter=context_parameter,
            payload=payload,
        )
        return f

    return register(function) if function is not None else register


def load_kinds(tasks: str) -> dict[str, Kind]:
    """Imports the modules or files in HEADRACE_TASKS (comma-separated; empty = the examples); returns kinds by name.

    UsageError when one cannot be imported or none registers a kind. Only the pool's children call this, so that task
    code runs nowhere else.
    """
    names = [t.strip() for t in tasks.split(",") if t.strip()] or example_files()
    for item in names:
        import_kinds(item)
    if not _registry:
        raise UsageError(f"HEADRACE_TASKS: {tasks} registers no task kind: decorate a function with @task")
    return dict(_registry)


def example_files() -> list[str]:
    """The examples as files, because a package with their names could hide one of the user's."""
    return [str(part_folder("examples") / f"{name}.py") for name in EXAMPLES]


def forget_kinds() -> None:
    """Empties the registry, for tests that register their own kinds."""
    _registry.clear()


def _check_unique(name: str, function: Callable[..., Any]) -> None:
    """UsageError when another function has the name. A module that is imported again registers the same function."""
    there, code = _registry.get(name), code_of(function)
    if there is None:
        return
    before = code_of(there.function)
    is_again = code is not before and _line_of(code) == _line_of(before)
    if not is_again and (code, before) != (None, None):
        raise UsageError(
            f"@task {name}{place_of(function)}: this name is taken{place_of(there.function)}: rename one of the two, "
            "or give one of them a name of its own with @task(name=...)"
        )


def _line_of(code: CodeType | None) -> tuple[str, int] | None:
    return None if code is None else (code.co_filename, code.co_firstlineno)


def _payload_model(name: str, where: str, function: Callable[..., Any]) -> tuple["PayloadModel", str | None]:
    """(the model of the payload, name of the parameter that takes the Context); `where` is for UsageError."""
    from pydantic import ConfigDict, Field, create_model

    from headrace.payload.model import PayloadModel

    try:
        hints = typing.get_type_hints(function, include_extras=True)
        parameters = inspect.signature(function).parameters.values()
    except Exception as e:  # noqa: BLE001 - evaluating a person's hints may raise anything
        raise UsageError(f"@task {where}: type hints cannot be resolved: {e}") from None
    fields: dict[str, Any] = {}
    context_parameter = None
    for p in parameters:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY):
            raise UsageError(f"@task {name}: parameter {p.name} must be passable by name, so no *args, **kwargs or /")
        hint = hints.get(p.name, Any)
        if _is_context(hint, p, where, context_parameter):
            context_parameter = p.name
            continue
        default = ... if p.default is p.empty else p.default
        # The alias keeps a parameter from clashing with an attribute of pydantic's own (`json`, `copy`).
        fields[f"p_{p.name}"] = (hint, Field(default, alias=p.name))
    try:
        model = create_model(name, __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=False), **fields)
        return PayloadModel(model), context_parameter
    except Exception as e:  # noqa: BLE001 - pydantic and an author's types may raise anything
        raise UsageError(f"@task {name}: its type hints have no JSON Schema: {e}") from None


def _is_context(hint: Any, parameter: inspect.Parameter, where: str, other: str | None) -> bool:
    """Whether the parameter takes the Context; UsageError where it is meant to and its annotation does not say so."""
    name = parameter.name
    if hint is Context:
        if other is not None:
            raise UsageError(f"@task {where}: parameters {other} and {name} both take the Context: keep one")
        return True
    if (name == "context" and parameter.annotation is parameter.empty) or Context in typing.get_args(hint):
        raise UsageError(
            f"@task {where}: annotate the parameter as `{name}: headrace.Context` to get the attempt's context, or "
            "with the type of its JSON"
        )
    return False


def _version(function: Callable[..., Any]) -> str:
    """A short hash of the function's source: it changes with the code."""
    try:
        source = inspect.getsource(function)
    except OSError:
        source = repr(function.__code__.co_code)
    return hashlib.sha256(source.encode()).hexdigest()[:12]
