import torch

from recbench.training import checkpoint
from recbench.training.checkpoint import Checkpoints


def test_gives_back_what_was_saved(tmp_path):
    saved = Checkpoints(tmp_path / "checkpoint", "a")
    assert saved.latest() is None
    saved.save(lambda: {"model": {"w": torch.arange(3)}, "epoch": 2})
    found = Checkpoints(tmp_path / "checkpoint", "a").latest()
    assert found["epoch"] == 2
    assert torch.equal(found["model"]["w"], torch.arange(3))
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["state.pt"]
    saved.clear()
    assert not (tmp_path / "checkpoint").exists()


def test_saves_seldom_enough_to_cost_little(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    saves = []

    def state():
        saves.append(now[0])
        now[0] += 1.0  # writing takes a second
        return {}

    checkpoints = Checkpoints(tmp_path / "checkpoint", "a")
    while now[0] < 200:
        checkpoints.save(state)
        now[0] += 0.5
    assert saves == [100.0, 121.0, 142.0, 163.0, 184.0]


def test_without_a_folder_nothing_is_saved():
    checkpoints = Checkpoints(None).of("a")
    checkpoints.save(lambda: 1 / 0)
    checkpoints.save_stage(0, lambda: 1 / 0)
    checkpoints.clear()
    assert checkpoints.latest() is None
    assert checkpoints.finished_stage(0) is None


def test_a_stage_is_kept_where_there_is_a_checkpoint_to_go_on_from(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoint", "a")
    checkpoints.save_stage(0, lambda: {"w": torch.ones(2)})
    assert checkpoints.finished_stage(0) is None
    checkpoints.save(dict)
    checkpoints.save_stage(0, lambda: {"w": torch.ones(2)})
    assert torch.equal(checkpoints.finished_stage(0)["w"], torch.ones(2))
    assert checkpoints.of("b").latest() is None
    assert checkpoints.finished_stage(0) is None
