"""A whole query between two nodes, against the same question answered in the clear."""

from __future__ import annotations


def test_overlap_is_exact_when_noise_is_off(pair):
    job = pair.bank.run(pair.query())
    assert job.state == "succeeded", job.error
    assert job.result["value"] == 1000
