"""Evaluating again and again costs neither memory nor files. For longer, and with kills: `make soak`."""

import pytest
import soak


@pytest.mark.slow
def test_evaluations_keep_their_files_and_their_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("RLKIT_CACHE_DIR", str(tmp_path))
    steps, memory, files = soak.leak(20)
    assert steps == 20 * 2 * 10 * 200
    assert files <= 0 and memory < 20_000
