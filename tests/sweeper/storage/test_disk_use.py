"""The bytes of a sweep's folder, by what they are for."""

from __future__ import annotations

from pathlib import Path

from sweeper.storage.disk_use import DiskUse, disk_line, disk_use


def test_weights_and_checkpoints_are_told_apart(tmp_path: Path) -> None:
    assert disk_use(tmp_path / "nosuch") == DiskUse(weights_bytes=0, checkpoint_bytes=0, other_bytes=0)
    sizes = {"study.db": 1, "trials/00000/weights.safetensors": 20_000_000, "trials/00001/weights.safetensors": 10}
    sizes |= {"trials/00002/checkpoint.pt": 3_000_000, "trials/00002/checkpoint.pt.unreadable": 100, "front/a.png": 7}
    for name, size in sizes.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / "link").symlink_to(tmp_path)
    use = disk_use(tmp_path)
    assert (use.weights_bytes, use.checkpoint_bytes) == (20_000_010, 3_000_100)
    assert 8 <= use.other_bytes < 1000, "a link is not followed"
    assert disk_line(use) == "disk: 23.0 MB, 20.0 MB weights of trials and 3.0 MB checkpoints among them"
    assert disk_line(DiskUse(weights_bytes=0, checkpoint_bytes=0, other_bytes=2_500_000_000)) == "disk: 2.50 GB"
