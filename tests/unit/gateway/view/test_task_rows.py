"""A task comes back from its row as it was, whatever its texts hold."""

from dataclasses import replace

import pytest

from gateway.view.projection import AttemptView, TaskView, id_text
from gateway.view.task_rows import row_of, task_of
from headrace.contract.states import Status
from headrace.storage.sqlite import Damaged

ID = bytes(range(16))
TASK = TaskView(
    ID,
    name="prime",
    directory="team/demo",
    status=Status.COMPLETED,
    attempts=[AttemptView(1, "node-1", 5, 6, "timeout", "late"), AttemptView(2, "node-2", 7)],
    file=f"team/demo/{id_text(ID)}.json",
    size=9,
    sha256="0a" * 32,
    content_type="application/json",
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"file": f"team/demo/{id_text(ID)}"},
        {"file": "elsewhere/file.csv", "content_type": "text/csv"},
        {"file": f"team/demo/{id_text(ID)}.\udcff"},
        {"sha256": "0A" * 32},
        {"sha256": "no digest", "content_type": "j"},
        {"sha256": "0a"},
        {"file": "", "sha256": "", "content_type": "", "attempts": [AttemptView(1)]},
        {"attempts": []},
    ],
)
def test_a_row_is_the_task(changes: dict[str, object]) -> None:
    task = replace(TASK, **changes)
    assert task_of(row_of(task)) == task


def test_the_usual_texts_take_no_room() -> None:
    _, *values = row_of(TASK)
    assert b".json" in values
    assert b"j" in values
    assert bytes.fromhex(TASK.sha256) in values
    assert values[-1] == '[[1,"node-1",5,6,"timeout","late"],[2,"node-2",7]]'


def test_a_row_that_was_never_written_is_damage() -> None:
    with pytest.raises(Damaged):
        task_of((*row_of(TASK)[:-1], "[[1,"))
