"""The bar is for people: quiet in files, and for what is soon done."""

import importlib

from jaxcomp.weights.progress import progress


def test_progress_shows_only_long_work_on_a_terminal(monkeypatch, capsys):
    module = importlib.import_module("jaxcomp.weights.progress")
    for terminal, patience, shown in ((False, -1, False), (True, 60, False), (True, -1, True)):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal)
        monkeypatch.setattr(module, "QUIET_SECONDS", patience)
        with progress(2) as advance:
            advance("first")
            advance("second")
        assert bool(capsys.readouterr().err) == shown
