"""The YAML files that come with the package."""

from __future__ import annotations

from importlib import resources
from typing import Any

import yaml

__all__ = ["read_shipped"]

# Ten times as fast where PyYAML was built with libyaml. Files of others are read by its Python parser, which
# ends a nesting without end with an error and not with the process.
_LOADER: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_shipped(package: str, *path: str) -> Any:
    """What a YAML file of `package` holds."""
    text = resources.files(package).joinpath(*path).read_text("utf-8")
    return yaml.load(text, Loader=_LOADER)  # noqa: S506 - a SafeLoader
