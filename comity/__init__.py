"""The roof: configuration, the node process, the command line, and the wiring of the rooms below.

A node in three steps; `comity init` and `comity serve` do the same from a shell:

>>> import tempfile
>>> from pathlib import Path
>>> from comity import build_node, create_app, make_node, system_random, utc_now
>>> folder = tempfile.TemporaryDirectory()
>>> made = make_node(Path(folder.name) / "bank", port=8440, clock=utc_now, random=system_random)
>>> made.config.name, made.config.public_url, (made.config.operator_key.stat().st_mode & 0o777) == 0o600
('bank', 'http://127.0.0.1:8440', True)
>>> node = build_node(made.config, clock=utc_now, random=system_random)
>>> app = create_app(node)  # an ASGI application; `comity serve` hands it to uvicorn
>>> node.check_ready(); node.log_vkey.startswith("bank.comity.invalid/log+")
True
>>> node.close(); folder.cleanup()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comity.app import create_app
    from comity.bootstrap import build_node, open_records
    from comity.config import NodeConfig, load_config
    from comity.node import Node
    from comity.scaffold import make_node
    from comity.system import system_random, utc_now

__all__ = [
    "Node",
    "NodeConfig",
    "build_node",
    "create_app",
    "load_config",
    "make_node",
    "open_records",
    "system_random",
    "utc_now",
]

_HOMES = {
    "Node": "node",
    "NodeConfig": "config",
    "build_node": "bootstrap",
    "create_app": "app",
    "load_config": "config",
    "make_node": "scaffold",
    "open_records": "bootstrap",
    "system_random": "system",
    "utc_now": "system",
}


def __getattr__(name: str) -> Any:
    # Looked up when asked for, so that `comity --help` need not import the whole house.
    if name not in _HOMES:
        raise AttributeError(f"module 'comity' has no attribute {name!r}")
    return getattr(importlib.import_module(f"comity.{_HOMES[name]}"), name)
