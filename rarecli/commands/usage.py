"""Turns what Typer says about a command line into a UsageError, so that every error looks alike."""

from __future__ import annotations

from typing import Any

from rarecli.core.errors import UsageError


def is_typers(error: BaseException) -> bool:
    """Return whether Typer raised the error. Its class is private, and lies elsewhere in older versions; this method is common to all."""
    return hasattr(error, "format_message")


def usage_error(error: Any) -> UsageError:
    """Return the UsageError for an error of Typer: what is wrong with which option, what was found, what is expected."""
    context = getattr(error, "ctx", None)
    remedy = f"see {context.command_path if context else 'rare'} --help"
    if near := getattr(error, "possibilities", None):
        remedy = f"did you mean {' or '.join(near)}?"
    name = _name_of(error)
    if name is None:
        return UsageError(_sentence(error.format_message()), remedy=remedy)
    if type(error).__name__ == "MissingParameter":
        return UsageError(f"{name} is missing", expected=_help_of(error.param), remedy=remedy)
    # Typer says "'x' is not a valid integer." or "0 is not in the range x>=1."
    found, is_not, rule = error.message.rpartition(" is not ")
    if not is_not:
        return UsageError(_sentence(error.message), field=name, remedy=remedy)
    return UsageError("invalid value", field=name, found=found.strip("'"), expected=_sentence(rule), remedy=remedy)


def _name_of(error: Any) -> str | None:
    """Return the spelling of the option or argument that the error is about."""
    param = getattr(error, "param", None)
    if param is None:
        return None
    return str(max(param.opts, key=len)) if param.param_type_name == "option" else str(param.metavar or param.human_readable_name)


def _help_of(param: Any) -> str | None:
    return getattr(param, "help", None)


def _sentence(text: str) -> str:
    text = text.removesuffix(".")
    return text[:1].lower() + text[1:]
