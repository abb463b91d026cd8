"""`comity consent`: decisions of people, and what was done with their data. One file a group of commands."""

from comity.cli.consent import decisions, erasing, merging, people, policy, receipts
from comity.cli.consent.app import app

__all__ = ["app", "decisions", "erasing", "merging", "people", "policy", "receipts"]
