"""Audit of a ledger."""
