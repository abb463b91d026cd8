"""`comity overlap`: how many people are shared, and what they come to. One file a group of commands."""

from comity.cli.overlap import approvals, doctor, export, queries
from comity.cli.overlap.app import app

__all__ = ["app", "approvals", "doctor", "export", "queries"]
