"""Tables masked by a reviewed policy.

>>> import tempfile
>>> from pathlib import Path
>>> from privacy import KeyRing
>>> from privacy.masking import Policy, mask_table
>>> folder = Path(tempfile.mkdtemp())
>>> _ = (folder / "people.csv").write_text("name,mobile,age\\n张三,138-0013-8000,23\\n")
>>> policy = Policy.parse('''
... version: 1
... columns:
...   name: {class: person, op: mask}
...   mobile: {class: cn_mobile, op: mask}
...   age: {op: bucket, width: 5}
... ''')
>>> manifest = mask_table(folder / "people.csv", folder / "masked.csv", policy, KeyRing.from_root(bytes(32)))
>>> (folder / "masked.csv").read_text().splitlines(), manifest.rows
(['name,mobile,age', '张**,138****8000,"[20, 25)"'], 1)
"""

from __future__ import annotations

from privacy.masking.manifest import ColumnReport, Manifest, manifest_path
from privacy.masking.policy import ColumnRule, Policy
from privacy.masking.tables import mask_table

__all__ = ["ColumnReport", "ColumnRule", "Manifest", "Policy", "manifest_path", "mask_table"]
