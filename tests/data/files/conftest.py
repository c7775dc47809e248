import pytest


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Give every test an empty cache, no mirror and no proxy."""
    monkeypatch.setenv("RECBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RECBENCH_MIRROR", raising=False)
    monkeypatch.delenv("RECBENCH_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("recbench.data.files.download._WAIT_SECONDS", (0.0, 0.0))
    return tmp_path / "home"
