"""Builds configuration models from parsed JSON or YAML; errors name the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from rarecli.core.errors import RareError
from rarecli.core.suggestions import did_you_mean

Model = TypeVar("Model", bound=BaseModel)


def validate(
    kind: type[Model],
    content: Any,
    what: str,
    error: type[RareError],
    *,
    path: Path | None = None,
    remedy: str | None = None,
    strict: bool = False,
) -> Model:
    """Build `kind` from parsed JSON or YAML. Raises `error` for the first mistake, with the key and, for a typo, the nearest known key.

    what: the subject of the message, e.g. "the configuration". strict: refuse text and truth values for numbers, as the schema does.
    """
    try:
        return kind.model_validate(_with_tuples(content) if strict else content, strict=strict)
    except ValidationError as mistakes:
        first = mistakes.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        found = str(first.get("input"))
        if first["type"] == "extra_forbidden":
            fields = _field_names(kind, first["loc"][:-1])
            remedy = did_you_mean(str(first["loc"][-1]), fields, f"known keys: {', '.join(sorted(fields)) or 'none'}")
        problem = f"{what} is invalid: {first['msg']}"
        raise error(problem, path=path, field=key or None, found=found if len(found) < 200 else None, remedy=remedy) from mistakes


def _with_tuples(content: Any) -> Any:
    """Return the content with tuples for lists, as strict models require."""
    if isinstance(content, dict):
        return {name: _with_tuples(value) for name, value in content.items()}
    return tuple(map(_with_tuples, content)) if isinstance(content, list) else content


def _field_names(kind: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    model: Any = kind
    for part in location:
        fields = getattr(model, "model_fields", {})
        if part in fields:
            model = fields[part].annotation
        elif isinstance(part, int):  # an item of a tuple
            model = next(iter(get_args(model)), model)
        else:  # the member of a union that the tag selects
            model = next((choice for choice in get_args(model) if _tag(choice) == part), model)
    return list(getattr(model, "model_fields", {}))


def _tag(model: Any) -> Any:
    return model.model_fields["kind"].default if "kind" in getattr(model, "model_fields", {}) else None
