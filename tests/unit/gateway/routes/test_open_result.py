"""A stored result is opened inside the results root or not at all, even while others swap its directories."""

import os
from pathlib import Path

import pytest

from gateway.http.problems import Problem
from gateway.routes.results import open_result
from gateway.view.projection import TaskView, id_bytes
from headrace.contract.ids import new_id
from headrace.storage.results_root import open_directory
from tests.rigs.swapping import swapped


def test_a_directory_that_becomes_a_symlink_shows_nothing_from_outside(tmp_path: Path) -> None:
    root, task_id = open_directory(tmp_path / "results"), new_id()
    task = TaskView(id_bytes(task_id), file=f"a/b/{task_id}.json")
    for folder, text in ((root.path / "a" / "b", "ours"), (tmp_path / "outside" / "b", "secret")):
        folder.mkdir(parents=True)
        (folder / f"{task_id}.json").write_text(text)
    read = set()
    with swapped(root.path / "a", tmp_path / "outside") as turns:
        while turns[0] < 100 or not read:
            try:
                fd = open_result(root.fd, task)
            except Problem:
                continue
            read.add(os.read(fd, 100))
            os.close(fd)
    assert read == {b"ours"}
    root.close()


@pytest.mark.parametrize(
    "file",
    [
        "../{id}.json",
        "/etc/{id}.json",
        "a/../{id}.json",
        "a/b",
        "{id}.json",
        "a//{id}.json",
        "a/{id}.json\0.png",
        "a/%2e%2e/{id}.json",
        "x/" * 9 + "{id}.json",
        "a/" + "x" * 300 + "/{id}.json",
        "a/{id}" + "x" * 300,
        ".headrace/{id}.json",
    ],
)
def test_a_forged_path_is_refused(tmp_path: Path, file: str) -> None:
    root, task_id = open_directory(tmp_path / "results"), new_id()
    for folder in (root.path, root.path / "a", root.path / ".headrace", tmp_path):
        folder.mkdir(exist_ok=True)
        (folder / f"{task_id}.json").write_text("secret")
    with pytest.raises(Problem, match="not on disk"):
        open_result(root.fd, TaskView(id_bytes(task_id), file=file.format(id=task_id)))
    root.close()


def test_the_file_of_another_task_is_refused(tmp_path: Path) -> None:
    root, other = open_directory(tmp_path / "results"), new_id()
    (root.path / "demo").mkdir()
    (root.path / "demo" / f"{other}.json").write_text("of another task")
    with pytest.raises(Problem, match="not on disk"):
        open_result(root.fd, TaskView(id_bytes(new_id()), file=f"demo/{other}.json"))
    root.close()
