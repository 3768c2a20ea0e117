"""A training killed at random moments: never a torn restore, and the same files and arrays in the end."""

import pytest
import soak


@pytest.mark.slow
def test_killed_at_random_moments_a_run_ends_at_the_same_bits(tmp_path):
    killed = soak.kill(tmp_path, rounds=4)
    assert killed.kills >= 4 and killed.refusals == 0
    assert killed.finished == killed.equal > 0


@pytest.mark.slow
def test_a_long_evaluation_keeps_its_files_and_its_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("RLKIT_CACHE_DIR", str(tmp_path))
    steps, memory, files = soak.leak(20)
    assert steps == 20 * 2 * 10 * 200
    assert files <= 0 and memory < 20_000


@pytest.mark.slow
def test_stopped_at_random_moments_a_run_notices_and_ends_soon(tmp_path):
    stopped = soak.stop(tmp_path, rounds=4)
    assert stopped.sound and stopped.noticed
    assert max(stopped.noticed) < 5 and max(stopped.ended) < 15  # promised is a second, of a machine that is not busy
