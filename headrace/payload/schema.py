"""The JSON Schema of a payload, made so that it takes what pydantic takes, and whether it says everything.

pydantic's own schemas say less than its models check: that the text of a Decimal is a number, that the keys of a
`dict[int, …]` are, that a URL begins with http. What a schema can say is added here. What it cannot say (validators of
the author's, types of other packages) makes it incomplete: then the kind's process checks again. Whatever is not known
to be said counts as not said.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, EncodedStr
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from headrace.contract.payload_formats import EXACT_FORMATS, is_known_pattern

_ALWAYS = frozenset({"type", "ref", "metadata", "serialization", "strict"})
_BOUNDS = frozenset({"ge", "gt", "le", "lt"})
_LENGTHS = frozenset({"min_length", "max_length"})
_MODEL = frozenset({"cls", "schema", "config", "root_model", "frozen", "extra_behavior", "generic_origin", "slots"})
_FIELD = frozenset({"schema", "validation_alias", "serialization_alias", "serialization_exclude", "frozen", "name"})
_FIELDS = frozenset(
    {
        "fields",
        "extra_behavior",
        "model_name",
        "dataclass_name",
        "cls_name",
        "cls",
        "config",
        "total",
        "computed_fields",
    }
)
# pydantic's core types whose schema says all that they check, with the settings that it says too.
_SAID: Mapping[str, frozenset[str]] = {
    "any": frozenset(),
    "none": frozenset(),
    "bool": frozenset(),
    "int": _BOUNDS | {"multiple_of"},
    "float": _BOUNDS | {"allow_inf_nan"},  # JSON has no infinity
    "str": _LENGTHS | {"pattern"},
    "bytes": frozenset(),
    "date": frozenset(),
    "time": frozenset({"microseconds_precision"}),
    "datetime": frozenset({"microseconds_precision", "tz_constraint"}),
    "timedelta": frozenset({"microseconds_precision"}),
    "decimal": frozenset({"allow_inf_nan"}),
    "fraction": frozenset(),
    "complex": frozenset(),
    "uuid": frozenset({"version"}),
    "url": frozenset({"allowed_schemes", "max_length"}),
    "literal": frozenset({"expected"}),
    "enum": frozenset({"cls", "members", "sub_type", "missing"}),
    "list": _LENGTHS | {"items_schema", "fail_fast"},
    "deque": _LENGTHS | {"items_schema", "fail_fast"},
    "set": _LENGTHS | {"items_schema", "fail_fast"},
    "frozenset": _LENGTHS | {"items_schema", "fail_fast"},
    "tuple": _LENGTHS | {"items_schema", "variadic_item_index", "fail_fast"},  # the variadic item is the last one
    "generator": frozenset({"items_schema"}),
    "dict": _LENGTHS | {"keys_schema", "values_schema", "fail_fast"},
    "json": frozenset(),
    "nullable": frozenset({"schema"}),
    "union": frozenset({"choices", "mode", "auto_collapse"}),
    "tagged-union": frozenset({"choices", "discriminator", "from_attributes"}),
    "default": frozenset({"schema", "default", "default_factory", "default_factory_takes_data", "copy_default"}),
    "definitions": frozenset({"schema", "definitions"}),
    "definition-ref": frozenset({"schema_ref"}),
    "json-or-python": frozenset({"json_schema", "python_schema"}),
    "lax-or-strict": frozenset({"lax_schema", "strict_schema"}),
    "model": _MODEL,
    "model-fields": _FIELDS,
    "model-field": _FIELD,
    "typed-dict": _FIELDS,
    "typed-dict-field": _FIELD | {"required"},
    "dataclass": _MODEL | {"fields", "cls_name"},
    "dataclass-args": _FIELDS | {"collect_init_only"},
    "dataclass-field": _FIELD | {"kw_only", "init"},
    "named-tuple": _FIELDS,
    "named-tuple-field": _FIELD,
}
# Texts and numbers that make a set's item: of these, equal values have equal JSON, and all can be hashed.
_PLAIN_ITEMS = frozenset({"int", "str", "none", "enum", "literal", "uuid"})
_HASHABLE = _PLAIN_ITEMS | {"bool", "float", "bytes", "date", "time", "datetime", "timedelta", "decimal", "complex"}
_KEY_FORMAT = {"int": "integer-key", "float": "number-key", "bool": "boolean-key", "decimal": "decimal"}
_TEXT_KEYS = frozenset({"str", "any", "bytes", "date", "datetime", "timedelta", "time", "uuid", "enum", "literal"})
# A model's settings that change what text it takes, and that its schema does not show.
_TEXT_SETTINGS = ("str_strip_whitespace", "str_to_lower", "str_to_upper")


@dataclass(frozen=True, slots=True)
class PayloadSchema:
    """What a node announces of a payload. `is_complete`: whatever the schema takes, the kind takes."""

    schema: dict[str, Any]
    is_complete: bool


def schema_of(model: type[BaseModel]) -> PayloadSchema:
    """The schema of a payload's model; raises pydantic's errors for types that have none."""
    generator = _Generator(by_alias=True)
    schema = generator.generate(model.__pydantic_core_schema__, mode="validation")
    schema.pop("title", None)
    return PayloadSchema(schema, generator.is_complete)


class _Generator(GenerateJsonSchema):
    """pydantic's generator, which also notes what it leaves out."""

    is_complete = True

    def generate_inner(self, schema: Any) -> JsonSchemaValue:
        before = self.is_complete
        found = super().generate_inner(schema)
        if _is_own_type(schema, found):
            self.is_complete = before  # whatever it is made of
        elif not self._is_said(schema):
            self.is_complete = False
        return found

    def decimal_schema(self, schema: Any) -> JsonSchemaValue:
        found = super().decimal_schema(schema)
        for part in found.get("anyOf", [found]):
            if part.get("type") == "string":
                part["format"] = "decimal"
        return found

    def complex_schema(self, schema: Any) -> JsonSchemaValue:
        return super().complex_schema(schema) | {"format": "complex"}

    def datetime_schema(self, schema: Any) -> JsonSchemaValue:
        zone = schema.get("tz_constraint")
        return super().datetime_schema(schema) | {"format": f"{zone}-date-time" if zone else "date-time"}

    def json_schema(self, schema: Any) -> JsonSchemaValue:
        return super().json_schema(schema) | {"format": "json"}

    def str_schema(self, schema: Any) -> JsonSchemaValue:
        found = super().str_schema(schema)
        if "pattern" in found and not is_known_pattern(found["pattern"]):
            del found["pattern"]
        return found

    def url_schema(self, schema: Any) -> JsonSchemaValue:
        found = super().url_schema(schema)
        if schemes := schema.get("allowed_schemes"):
            found["pattern"] = f"^(?i:{'|'.join(map(_escaped, schemes))}):"
        return found

    def dict_schema(self, schema: Any) -> JsonSchemaValue:
        """As pydantic's, with what it leaves out about keys."""
        found = super().dict_schema(schema)
        if patterned := found.pop("patternProperties", None):
            [(pattern, values)] = patterned.items()
            found["additionalProperties"] = values or True
            found["propertyNames"] = found.get("propertyNames", {}) | {"pattern": pattern}
        keys = schema.get("keys_schema", {})
        if keys.get("type") in _KEY_FORMAT:
            found["propertyNames"] = {"format": _KEY_FORMAT[keys["type"]]}
        elif keys.get("type") == "enum" and keys.get("sub_type") == "int":
            found["propertyNames"] = {"enum": [str(int(member.value)) for member in keys["members"]]}
        return found

    def _is_said(self, schema: Any) -> bool:
        kind = schema["type"]
        if kind not in _SAID or set(schema) - _ALWAYS - _SAID[kind] - _unset(schema):
            return False
        check = getattr(self, f"_is_said_{kind.replace('-', '_')}", None)
        return check is None or check(schema)

    def _is_said_str(self, schema: Any) -> bool:
        pattern = schema.get("pattern")
        return (
            not any(self._config.config_dict.get(name) for name in _TEXT_SETTINGS)
            and self._config.config_dict.get("regex_engine", "rust-regex") == "rust-regex"
            and (pattern is None or (isinstance(pattern, str) and is_known_pattern(pattern)))
        )

    def _is_said_bytes(self, _schema: Any) -> bool:
        return self._config.config_dict.get("val_json_bytes", "utf8") == "utf8"

    def _is_said_time(self, schema: Any) -> bool:
        return not schema.get("tz_constraint")

    def _is_said_enum(self, schema: Any) -> bool:
        return all(_is_scalar(member.value) for member in schema["members"])

    def _is_said_literal(self, schema: Any) -> bool:
        return all(_is_scalar(value) for value in schema["expected"])

    def _is_said_set(self, schema: Any) -> bool:
        items = schema.get("items_schema", {}).get("type")
        return items in (_PLAIN_ITEMS if _LENGTHS & set(schema) else _HASHABLE)

    _is_said_frozenset = _is_said_set

    def _is_said_dict(self, schema: Any) -> bool:
        keys = schema.get("keys_schema", {"type": "str"})
        if keys["type"] in _KEY_FORMAT:
            return not (set(keys) - _ALWAYS or _LENGTHS & set(schema))
        return keys["type"] in _TEXT_KEYS and (keys["type"] in ("str", "any") or not _LENGTHS & set(schema))

    def _is_said_tagged_union(self, schema: Any) -> bool:
        return isinstance(schema["discriminator"], str)

    def _is_said_model_field(self, schema: Any) -> bool:
        return isinstance(schema.get("validation_alias", ""), str)

    _is_said_typed_dict_field = _is_said_named_tuple_field = _is_said_model_field

    def _is_said_dataclass_field(self, schema: Any) -> bool:
        return self._is_said_model_field(schema) and schema.get("init", True) is True


def _unset(schema: Any) -> set[str]:
    """Settings that are off: false, or None."""
    return {name for name, value in schema.items() if value is None or value is False}


def _is_scalar(value: Any) -> bool:
    return value is None or type(value) in (str, int, float, bool) or isinstance(value, str | int)


def _is_own_type(schema: Any, found: JsonSchemaValue) -> bool:
    """Whether it is a type of pydantic's own, made of functions and alternatives, whose format says everything."""
    if found.get("format") not in EXACT_FORMATS or not schema["type"].startswith(("function-", "lax-or-strict")):
        return False
    if schema["type"] == "lax-or-strict":
        return True
    function = schema["function"]["function"]
    if isinstance(getattr(function, "__self__", None), EncodedStr):
        return False  # what is encoded must be UTF-8 as well, which no format says
    return (getattr(function, "__module__", None) or "").split(".")[0] in ("pydantic", "ipaddress", "pathlib")


def _escaped(scheme: str) -> str:
    return "".join(c if c.isalnum() else f"\\{c}" for c in scheme)
