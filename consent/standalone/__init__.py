"""Programs that stand alone: one file each, to be copied out and read. `comity log verifier` prints one.

They import nothing of Comity, and Comity imports nothing of them.
"""

from __future__ import annotations

__all__: list[str] = []
