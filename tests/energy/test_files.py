"""Files are written whole, where they are: through a link, into a pipe, and never half of one."""

import os
import stat
from pathlib import Path

import pytest

from budjoule.energy.errors import RunError
from budjoule.energy.files import write_atomic


def test_a_link_stays_and_what_it_leads_to_is_renewed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "target.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(Path("real") / "target.json")
    write_atomic(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    target.unlink()
    write_atomic(link, "anew", force=False)  # a link to nothing is no file yet
    assert link.is_symlink()
    assert target.read_text() == "anew"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["link.json", "real", "target.json"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_written_into_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    keeper = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)  # both ends, so that nobody waits for the other
    try:
        write_atomic(pipe, "new")
        assert stat.S_ISFIFO(pipe.stat().st_mode)
        assert os.read(keeper, 100) == b"new"
    finally:
        os.close(keeper)
    assert list(tmp_path.iterdir()) == [pipe]


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device; check"):
        write_atomic(path, "new")
    with pytest.raises(RunError, match="cannot write"):
        write_atomic(tmp_path / "no" / "file", "new")
    with pytest.raises(RunError, match="Is a directory"):
        write_atomic(tmp_path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
