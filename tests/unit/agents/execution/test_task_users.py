"""Where the node is root, children run as users of their own and cannot reach the node's files."""

import asyncio
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio

from agents.execution.pool import Pool
from agents.execution.resource_limits import Limits
from agents.execution.task_users import scratch_folder, task_users
from headrace.child.user import FIRST_ID, ChildUser, blocking_path, users_for
from headrace.contract.states import Cause
from headrace.errors import UsageError
from headrace.settings import Settings
from tests.rigs.pool import SLOTS, Bench

IS_ROOT = os.geteuid() == 0
KINDS = '''
import os, resource, signal
from pathlib import Path
from typing import Any
from headrace import Context, task

@task
def me(context: Context) -> dict[str, Any]:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"uids": os.getresuid(), "gids": os.getresgid(), "groups": os.getgroups(), "home": os.environ["HOME"],
            "tmp": os.environ["TMPDIR"], "leads_to": os.path.realpath(os.environ["TMPDIR"]),
            "scratch": str(context.scratch), "no_new_privs": int(status["NoNewPrivs"]),
            "capabilities": int(status["CapEff"], 16), "uid_at_import": UID_AT_IMPORT,
            "core": resource.getrlimit(resource.RLIMIT_CORE)}

UID_AT_IMPORT = os.getuid()

@task
def tries(path: str, how: str) -> str:
    try:
        {"read": lambda: Path(path).read_bytes(), "list": lambda: os.listdir(path),
         "write": lambda: Path(path, "planted").write_text("x"), "kill": lambda: os.kill(int(path), 0)}[how]()
    except PermissionError:
        return "refused"
    return "done"

@task
def swaps(secret: str, how: str) -> bytes:
    """Puts a link in the place of the result file."""
    write = Path.write_bytes
    def plant(path: Path, raw: bytes) -> int:
        Path.write_bytes = write
        {"soft": path.symlink_to, "hard": path.hardlink_to}[how](secret)
        return len(raw)
    Path.write_bytes = plant
    return b"x" * 100_000

@task
def big(size: int, context: Context) -> Path:
    path = context.scratch / "big.bin"
    path.write_bytes(b"x" * size)
    return path
'''


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Path]:
    """A directory that every user may read: pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-open-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(open_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    (open_folder / "kinds.py").write_text(KINDS)
    pool = Pool(
        str(open_folder / "kinds.py"),
        SLOTS,
        open_folder / "scratch",
        children_lock=tmp_path_factory.mktemp("node") / "children.lock",
        users=users_for("auto", SLOTS, 6066),
        limits=Limits(scratch_mb=64),
    )
    kinds = pool.start()
    pool.listen()
    yield Bench(pool, kinds, [], open_folder)
    await pool.close()


async def me(bench: Bench) -> dict[str, Any]:
    end = await bench.run("me")
    assert end.cause is None, end.detail
    return orjson.loads(end.value or b"")  # type: ignore[no-any-return]


def test_a_node_that_is_not_root_runs_tasks_as_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert users_for("auto", 2, 6066) == users_for("same", 2, 6066) == []
    with pytest.raises(UsageError, match="only root"):
        users_for("nobody", 2, 6066)


def test_each_slot_and_each_node_of_a_machine_has_users_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    found = [u.uid for port in (6066, 6067, 6068) for u in users_for("auto", 8, port)]
    assert len(set(found)) == 24
    assert min(found) >= FIRST_ID
    assert max(u.uid for u in users_for("auto", 64, 6079)) < 65_520
    assert users_for("same", 2, 6066) == []
    assert users_for("12345", 2, 6066) == [ChildUser(12345, 12345)] * 2
    for wrong in ("root", "0", "no-such-user", "-1", "4294967295", "9" * 30):
        with pytest.raises(UsageError, match="HEADRACE_TASK_USER"):
            users_for(wrong, 2, 6066)


def test_the_path_that_is_closed_to_a_user_is_named(open_folder: Path) -> None:
    user, closed = ChildUser(61_500, 61_500), open_folder / "closed"
    (closed / "below").mkdir(parents=True)
    assert blocking_path(user, closed / "below") is None
    closed.chmod(0o700)
    assert blocking_path(user, closed / "below") == closed
    assert blocking_path(ChildUser(os.getuid(), os.getgid()), closed / "below") is None
    closed.chmod(0o711)
    assert blocking_path(user, closed / "below") is None
    assert blocking_path(user, closed) == closed
    assert blocking_path(user, closed, stat.S_IXOTH) is None


if IS_ROOT:  # only root can become another user; the tests above cover the rest

    @pytest.mark.asyncio(loop_scope="module")
    async def test_tasks_have_no_privileges_and_no_groups_and_their_scratch_as_home(bench: Bench) -> None:
        found = [await me(bench) for _ in range(4)]
        users = {u.uid for u in users_for("auto", SLOTS, 6066)}
        for who in found:
            uid = who["uids"][0]
            assert uid in users
            assert who["uids"] == who["gids"] == [uid] * 3
            assert (who["groups"], who["no_new_privs"], who["capabilities"]) == ([], 1, 0)
            assert who["uid_at_import"] == uid  # the kinds' module is loaded without privileges too
            assert who["core"] == [0, 0]  # a crash must not fill the disk
            assert who["home"] == who["tmp"]
            assert who["leads_to"] == who["scratch"]

    def test_dropped_privileges_leave_no_group_a_strict_umask_and_a_limit_on_processes() -> None:
        became = """if True:
            import json, os, resource
            from headrace.child.user import ChildUser, drop_privileges
            os.setgroups([4242])
            os.umask(0)
            drop_privileges(ChildUser(61184, 61184))
            print(json.dumps([os.getgroups(), os.umask(0), resource.getrlimit(resource.RLIMIT_NPROC)[1] <= 4096]))"""
        said = subprocess.run([sys.executable, "-c", became], capture_output=True, text=True, check=True).stdout
        assert orjson.loads(said) == [[], 0o077, True]

    @pytest.mark.asyncio(loop_scope="module")
    async def test_tasks_reach_nothing_of_the_nodes(
        bench: Bench, open_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = Settings(data=open_folder / "data", stats_http="127.0.0.1:6066")
        (settings.data / "results" / "demo").mkdir(parents=True)
        secret = settings.data / "results" / "demo" / "secret"
        secret.write_text("s")
        assert (await bench.run("tries", path=str(secret), how="read")).value == b"done"  # open, until a node starts
        monkeypatch.setattr(
            "agents.execution.task_users.unreadable_path", lambda *_: None
        )  # wherever Python is on this machine
        assert len(task_users(settings)) == settings.slot_count
        node = os.getpid()
        for path, how in [
            (secret, "read"),
            (settings.data, "list"),
            (settings.data / "results", "list"),
            (settings.data, "write"),
            (Path(f"/proc/{node}/environ"), "read"),
            (Path(f"/proc/{node}/fd"), "list"),
            (tmp_path, "list"),
            (open_folder / "scratch", "list"),
            (open_folder / "scratch" / "results", "list"),
            (open_folder / "scratch", "write"),
            (open_folder / "scratch" / "slot-0", "write"),
            (Path("/etc"), "write"),
            (Path("/etc/shadow"), "read"),
        ]:
            end = await bench.run("tries", path=str(path), how=how)
            assert end.value == b"refused", (path, how, end.detail)
        assert (await bench.run("tries", path=str(node), how="kill")).value == b"refused"

    @pytest.mark.asyncio(loop_scope="module")
    async def test_slots_cannot_reach_each_others_files(bench: Bench) -> None:
        neighbours = {w["uids"][0]: w for w in await asyncio.gather(*(me(bench) for _ in range(8)))}
        assert len(neighbours) == SLOTS
        answers = set()
        for slot in range(SLOTS):
            for _ in range(SLOTS * 2):
                end = await bench.run("tries", path=str(bench.results / "scratch" / f"slot-{slot}/results"), how="list")
                answers.add(end.value)
        assert answers == {b"done", b"refused"}  # its own, and not the neighbour's

    @pytest.mark.parametrize("how", ["soft", "hard"])
    @pytest.mark.asyncio(loop_scope="module")
    async def test_the_node_does_not_follow_a_link_in_the_place_of_the_result(
        bench: Bench, open_folder: Path, how: str
    ) -> None:
        secret = open_folder / "secret"
        secret.write_text("of root")
        secret.chmod(0o666)  # else the kernel itself would refuse the hard link, on most machines
        end = await bench.run("swaps", secret=str(secret), how=how)
        assert (end.cause, end.value, end.result_file) == (Cause.ERROR, None, None)
        assert "is not a regular file that the task's user owns" in end.detail
        assert not list((bench.results / "scratch" / "results").iterdir())

    @pytest.mark.asyncio(loop_scope="module")
    async def test_a_big_result_of_another_user_is_taken_over(bench: Bench) -> None:
        end = await bench.run("big", size=5_000_000)
        assert end.result_file is not None, end.detail
        assert end.result_file.stat().st_size == 5_000_000
        end.result_file.unlink()

    def test_unreadable_kinds_are_an_error_for_a_named_user_and_a_warning_for_auto(
        tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "kinds.py").write_text(KINDS)
        settings = Settings(data=tmp_path, tasks=str(tmp_path / "kinds.py"))
        assert task_users(settings) == []
        assert "TASKS RUN AS ROOT" in caplog.text
        with pytest.raises(UsageError, match=r"HEADRACE_TASK_USER.*is closed to it"):
            task_users(replace(settings, task_user="61184"))

    def test_scratch_is_where_its_user_can_reach_it(open_folder: Path, tmp_path: Path) -> None:
        user = [ChildUser(61_184, 61_184)]
        settings = Settings(data=tmp_path)
        assert scratch_folder(settings, "n", []) == tmp_path / "scratch" / "n"
        elsewhere = scratch_folder(settings, "n", user)
        assert (elsewhere.parent, elsewhere.name[:11]) == (Path("/var/tmp"), "headrace-n-")
        assert scratch_folder(replace(settings, data=tmp_path / "other"), "n", user) != elsewhere
        assert scratch_folder(replace(settings, scratch=str(open_folder)), "n", user) == open_folder / "n"
        with pytest.raises(UsageError, match="HEADRACE_SCRATCH"):
            scratch_folder(replace(settings, scratch=str(tmp_path)), "n", user)

    def test_a_directory_of_another_user_is_not_used_for_scratch(
        monkeypatch: pytest.MonkeyPatch, open_folder: Path
    ) -> None:
        monkeypatch.setattr("headrace.child.user.SCRATCH_PARENT", open_folder)
        user = [ChildUser(61_184, 61_184)]
        planted = scratch_folder(Settings(), "n", user)
        planted.mkdir()
        os.chown(planted, 61_184, 61_184)
        with pytest.raises(UsageError, match="belongs to another user"):
            scratch_folder(Settings(), "n", user)
