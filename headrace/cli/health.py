"""`headrace health`: whether a role on this machine is ready, for container health checks.

Asks `/readyz` of the role named by the argument or HEADRACE_ROLE. Exit code 0 or 1; the reasons go to stderr.
"""

import os
import urllib.error
import urllib.request

import click

from headrace.cli.options import with_settings
from headrace.errors import UsageError
from headrace.settings import Settings

ADDRESSES = {
    "gateway": "http",
    "worker": "stats_http",
    "storekeeper": "storekeeper_http",
    "analytics": "analytics_http",
}


@click.command("health", help="Whether a role (default: HEADRACE_ROLE) is ready. For container health checks.")
@click.argument("role", default=lambda: os.environ.get("HEADRACE_ROLE", ""), type=str)
@with_settings()
def health(settings: Settings, role: str) -> int:
    if role not in ADDRESSES:
        raise UsageError(f"{role!r} is not a role: give one of {', '.join(ADDRESSES)}, or set HEADRACE_ROLE")
    host, _, port = getattr(settings, ADDRESSES[role]).rpartition(":")
    host = "127.0.0.1" if host in ("0.0.0.0", "[::]") else host  # noqa: S104 - compared, not bound
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/readyz", timeout=2.5):
            return 0
    except urllib.error.HTTPError as e:
        click.echo(e.read(2000).decode(errors="replace"), err=True)
    except OSError as e:
        click.echo(f"{role} does not answer on {host}:{port}: {e}", err=True)
    return 1
