"""The rule for a task's results directory. Checked when a submission is decoded and again when files are written."""

import re

from headrace.errors import Invalid

MAX_SEGMENTS = 8
MAX_CHARACTERS = 200
_SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", re.ASCII)


def check_directory(value: object) -> str:
    """Returns the directory if it follows the rule; Invalid (pointer /directory) says which part does not."""
    if not isinstance(value, str) or not value:
        raise Invalid("directory must be a relative path such as 'demo' or 'team/run-1'", "/directory")
    if len(value) > MAX_CHARACTERS:
        raise Invalid(f"directory has {len(value)} characters: {MAX_CHARACTERS} at most", "/directory")
    segments = value.split("/")
    if len(segments) > MAX_SEGMENTS:
        raise Invalid(f"directory has {len(segments)} segments: {MAX_SEGMENTS} at most", "/directory")
    for segment in segments:
        if not _SEGMENT.fullmatch(segment):
            raise Invalid(
                f"directory segment {segment!r} is not allowed: use A-Z a-z 0-9 . _ - in each, "
                "not starting with a dot, and no leading, trailing or double slash",
                "/directory",
            )
    return value
