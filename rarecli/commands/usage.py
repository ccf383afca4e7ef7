"""Turns what Typer says about a command line into a UsageError, so that every error looks alike."""

from __future__ import annotations

from typing import Any

from rarecli.core.errors import UsageError
from rarecli.core.suggestions import nearest

_MEANS = {
    "resolution": ("depth", "depths", "spacing"),
    "resolutions": ("depths",),
    "force": ("overwrite",),
    "gpu": ("device",),
    "gpus": ("device",),
    "cuda": ("device",),
    "workers": ("jobs",),
    "processes": ("jobs", "nproc"),
    "weights": ("model",),
    "checkpoint": ("model",),
}
"""What people call options, and their names. The first that a command has is meant."""


def is_typers(error: BaseException) -> bool:
    """Return whether Typer raised the error. Its class is private, and lies elsewhere in older versions; this method is common to all."""
    return hasattr(error, "format_message")


def usage_error(error: Any) -> UsageError:
    """Return the UsageError for an error of Typer: what is wrong with which option, what was found, what is expected."""
    context = getattr(error, "ctx", None)
    remedy = f"see {context.command_path if context else 'rare'} --help"
    if context and (option := getattr(error, "option_name", None)):
        return UsageError(f"no such option: {option}", remedy=_meant(option, context.command.params) or remedy)
    name = _name_of(error)
    if name is None:
        return UsageError(_sentence(error.format_message()), remedy=remedy)
    if type(error).__name__ == "MissingParameter":
        return UsageError(f"{name} is missing", expected=_help_of(error.param), remedy=remedy)
    # Typer says "'x' is not a valid integer." or "0 is not in the range x>=1."
    found, is_not, rule = error.message.rpartition(" is not ")
    if not is_not:
        return UsageError(_sentence(error.message), field=name, remedy=remedy)
    expected = _expected(error.param.type) or _sentence(rule)
    return UsageError("invalid value", field=name, found=found.strip("'"), expected=expected, remedy=remedy)


def _meant(option: str, params: list[Any]) -> str | None:
    """Return the question for the nearest option, or setting of a training. Leading dashes do not count: all options have them."""
    spelled = {name.strip("-"): name for param in params for name in (*param.opts, *param.secondary_opts) if name.startswith("--")}
    if "set" in spelled:
        from rarecli.core.config.train_config import setting_names

        spelled = {name.replace("_", "-"): f"--set {key}=VALUE" for name, key in setting_names().items()} | spelled
    word = option.strip("-")
    known = [name for name in _MEANS.get(word, ()) if name in spelled]
    near = known[0] if known else nearest(word, spelled)
    return f"did you mean {spelled[near]}?" if near else None


def _name_of(error: Any) -> str | None:
    """Return the spelling of the option or argument that the error is about."""
    param = getattr(error, "param", None)
    if param is None:
        return None
    return str(max(param.opts, key=len)) if param.param_type_name == "option" else str(param.metavar or param.human_readable_name)


def _expected(kind: Any) -> str | None:
    """Return the values that a type of Typer accepts, in words; None for a type that is neither a choice nor a number."""
    if choices := getattr(kind, "choices", None):
        return "one of " + ", ".join(str(getattr(choice, "value", choice)) for choice in choices)
    noun = next((noun for name, noun in (("int", "a whole number"), ("float", "a number")) if name in kind.name), None)
    low, high = getattr(kind, "min", None), getattr(kind, "max", None)
    if noun is None or (low is None and high is None):
        return noun
    return f"{noun}, at least {low}" if high is None else f"{noun} from {low} to {high}"


def _help_of(param: Any) -> str | None:
    return getattr(param, "help", None)


def _sentence(text: str) -> str:
    text = text.removesuffix(".")
    return text[:1].lower() + text[1:]
