"""What must come of the kinds that raise and return by name."""

from typing import Any

# What ends `raises`, with words that the error must have.
RAISED = {
    "plain": "ValueError: plain",
    "surrogates": "ValueError: caf",
    "long": "xxxx",
    "long lines": "yyyy",
    "many lines": "",
    "control": "ValueError",
    "unprintable": "_Unprintable",
    "nameless": "",
    "not text": "_NotText",
    "own text": "own",
    "own": "own",
    "group": "ExceptionGroup",
    "deep group": "",
    "chain": "number 499",
    "loop": "ValueError: one",
    "notes": "",
    "interrupt": "KeyboardInterrupt",
    "exit": "bye",
    "stop": "StopIteration",
    "async stop": "StopAsyncIteration",
    "generator": "GeneratorExit",
    "cancelled": "CancelledError",
    "decode": "UnicodeDecodeError",
    "os": "FileNotFoundError",
    "arguments": "ValueError",
    "timeout": "TimeoutError",
    "broken pipe": "BrokenPipeError",
    "no memory": "RuntimeError: MemoryError",
    "recursion": "RecursionError",
    "syntax": "SyntaxError",
    "in a new context": "the second",
}

# The JSON of what `returns_object` returns.
OBJECTS: dict[str, Any] = {
    "dataclass": {"x": 1, "y": 0.5},
    "model": {"at": None, "ids": ["00000000-0000-0000-0000-000000000001"], "wait": None},
    "enum": ["red"],
    "tuple": [1, [2, 3]],
    "set": [1, 2, 3],
    "date": "2020-02-29",
    "uuid": {"id": "00000000-0000-0000-0000-000000000001"},
    "integer keys": {"1": "a", "2": "b"},
    "long integers": [2**64, -(2**70), {"n": 10**4000}],
    "zeros": [-0.0, 1e22, 5e-324],
    "nothing": None,
}
