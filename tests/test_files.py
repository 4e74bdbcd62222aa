"""Files are whole or not there: whatever kills the writer, fills the disk, or writes at the same time."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rmve import _files
from rmve._files import claim, locked, new_folder, remove_folder, replacing
from rmve._serialization import read_document, read_model, write_model

#: What Python tells of before it changes files.
EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree", "tempfile.mkdtemp"}


def write(folder: Path, number: int, prefix: str = "") -> None:
    """A small model of three files, all of which hold a number."""
    others = {"data.bin": lambda path: path.write_bytes(bytes([number]) * 5000)}
    write_model(folder, prefix, {"w": torch.full((700,), float(number))}, {"number": number}, others)


def read(folder: Path) -> int:
    """The number, after a check that all files hold it."""
    state, document = read_model(folder, "", "cpu")
    number = document["number"]
    assert (state["w"] == number).all()
    digest = _files.sha256_of(_files.find(folder, "data.bin", digest_of(folder, "data.bin")))
    assert digest == digest_of(folder, "data.bin")
    assert _files.find(folder, "data.bin", digest).read_bytes() == bytes([number]) * 5000
    return number


def digest_of(folder: Path, name: str) -> str:
    return read_document(folder)["sha256"][name]


def in_a_child(act: Callable[[], None]) -> int:
    """Run a function in a copy of this process; its exit status, 1 if it raised OSError."""
    child = os.fork()
    if child == 0:
        try:
            act()
        except OSError:
            os._exit(1)
        except BaseException:  # noqa: BLE001
            os._exit(99)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(n: int, act: Callable[[], None]) -> bool:
    """Run a function in a child that is killed before its file operation number ``n``; whether it came that far."""

    def act_and_count() -> None:
        seen = 0

        def hook(event: str, _) -> None:
            nonlocal seen
            if event not in EVENTS:
                return
            seen += 1
            if seen > n:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        act()

    status = in_a_child(act_and_count)
    assert status in (0, -signal.SIGKILL)
    return status != 0


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def hidden(folder: Path) -> list[Path]:
    return list(folder.glob(".*"))


@pytest.mark.parametrize("before", [1, None], ids=["over another", "new"])
def test_killed_at_every_operation(tmp_path, before):
    """After each kill the model is the old one or the new one; the next writer clears away what is left over."""
    n, found = 0, set()
    while True:
        folder = tmp_path / str(n) / "model"
        folder.parent.mkdir()
        if before is not None:
            write(folder, before)
        killed = killed_at(n, lambda folder=folder: write(folder, 2))
        number = read(folder) if (folder / "model.json").exists() else None
        found.add(number)
        assert number in {before, 2}
        write(folder, 3)
        assert read(folder) == 3
        assert visible(folder) == {"model.pt", "model.json", "data.bin"}
        assert not hidden(folder)
        if not killed:
            break
        n += 1
    assert n > 15
    assert found == {before, 2}


def test_killed_twice(tmp_path):
    """A second writer that is killed after a first one loses nothing either."""
    n = 0
    while True:
        folder = tmp_path / str(n)
        write(folder, 1)
        first = killed_at(n, lambda folder=folder: write(folder, 2))
        after = read(folder)
        for m in range(0, 40, 3):
            killed_at(m, lambda folder=folder: write(folder, 3))
            assert read(folder) in {after, 3}
            after = read(folder)
        if not first:
            break
        n += 4


@pytest.mark.parametrize("limit", [0, 10, 200, 2000, 4000, 4999])
def test_full_disk(tmp_path, limit):
    """A file that cannot be written is an OSError, leaves the old model, and no temporary that takes space."""
    write(tmp_path / "m", 1)

    def act(folder: Path) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        write(folder, 2)

    assert in_a_child(lambda: act(tmp_path / "m")) == 1
    assert read(tmp_path / "m") == 1
    assert not hidden(tmp_path / "m")
    assert in_a_child(lambda: act(tmp_path / "new")) == 1
    assert not (tmp_path / "new").exists()
    assert not hidden(tmp_path)


@pytest.mark.parametrize("name", ["model.pt", "model.json", "data.bin"])
def test_a_file_that_cannot_be_replaced(tmp_path, monkeypatch, name):
    """When one of the files cannot be put in place, the others are put back."""
    write(tmp_path / "m", 1)
    replace = os.replace

    def fail(source, target):
        if Path(target) == tmp_path / "m" / name and Path(source).parent.name.startswith(".rmve"):
            raise OSError(errno.EACCES, "no")
        replace(source, target)

    with monkeypatch.context() as context:
        context.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="no"):
            write(tmp_path / "m", 2)
    assert read(tmp_path / "m") == 1
    assert not hidden(tmp_path / "m")


def test_two_writers_and_a_reader(tmp_path):
    """Models of two processes are never mixed, and no save and no reading fails."""
    folder = tmp_path / "m"
    write(folder, 1)

    def save_often(number: int) -> None:
        for _ in range(25):
            write(folder, number)

    children = []
    for number in (2, 3):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                save_often(number)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    numbers = []
    while children:
        numbers.append(int(read_model(folder, "", "cpu")[1]["number"]))
        for child in list(children):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                assert status == 0
                children.remove(child)
    assert set(numbers) <= {1, 2, 3}
    assert read(folder) in {2, 3}


def test_links_are_replaced_and_not_followed(tmp_path):
    """A link at the name of a file, or of a temporary, leaves what it points to as it is."""
    victim = tmp_path / "victim"
    victim.write_text("intact")
    folder = tmp_path / "m"
    write(folder, 1)
    for name in ("model.pt", "model.json", "data.bin"):
        (folder / name).unlink()
        for link in (name, f".{name}.tmp", f".before-{name}"):
            (folder / link).symlink_to(victim)
    (folder / ".rmve-link").symlink_to(tmp_path)
    write(folder, 2)
    assert read(folder) == 2
    assert victim.read_text() == "intact"
    assert tmp_path.is_dir()
    with replacing(folder / "model.json") as path:
        path.write_text("x")
    assert victim.read_text() == "intact"


def test_a_folder_behind_a_link(tmp_path):
    """An existing folder is written into, also if the path to it is a link."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for number in (1, 2):
        write(tmp_path / "link", number)
        assert read(tmp_path / "real") == number
    assert (tmp_path / "link").is_symlink()


def test_replacing(tmp_path):
    """The file is the old one until all is written, also if that fails; nothing is left."""
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(path) as temporary:
        temporary.with_name("half").write_text("half")
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert visible(tmp_path) == {"file.txt"}
    assert not hidden(tmp_path)


def test_permissions_follow_the_umask(tmp_path):
    """Files and folders can be read by those who could read others that this user makes."""
    before = os.umask(0o027)
    try:
        write(tmp_path / "m", 1)
    finally:
        os.umask(before)
    assert (tmp_path / "m").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "m" / "model.pt").stat().st_mode & 0o777 == 0o640


def test_a_folder_is_whole_until_it_is_gone(tmp_path):
    """Killed while a folder is made or removed, it is there with all its files, or not at all."""

    def make(path: Path) -> None:
        with new_folder(path) as folder:
            for name in "abc":
                (folder / name).write_text(name)

    for act, existing in ((make, False), (remove_folder, True)):
        for n in range(40):
            path = tmp_path / f"{act.__name__}{n}" / "epoch"
            path.parent.mkdir()
            if existing:
                make(path)
            killed = killed_at(n, lambda act=act, path=path: act(path))
            assert not path.exists() or {file.name for file in path.iterdir()} == set("abc")
            if not killed:
                break
        assert not killed


def test_only_one_holds_a_folder(tmp_path):
    """Another process is told at once, or after a while, that the folder is in use; a dead one does not hold it."""
    with locked(tmp_path):
        assert in_a_child(lambda: claim(tmp_path)) == 1
    assert in_a_child(lambda: claim(tmp_path)) == 0
    child = in_a_child(lambda: (locked(tmp_path).__enter__(), os.kill(os.getpid(), signal.SIGKILL)))
    assert child == -signal.SIGKILL
    claim(tmp_path)


def test_files_of_a_living_writer_are_left_alone(tmp_path):
    """Only what nobody writes any more is cleared away."""
    with replacing(tmp_path / "a") as first:
        first.write_text("a")
        assert in_a_child(lambda: write_text(tmp_path / "b", "b")) == 0
        assert first.read_text() == "a"
    assert visible(tmp_path) == {"a", "b"}


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)


@pytest.mark.parametrize("name", [".rmve-notes", ".rmve-12345678", ".rmve-abcdef12-my_files_", ".rmve-{}-toolong_9"])
def test_folders_of_others_are_left_alone(tmp_path, name):
    """A folder whose name begins like ours is not left over, nor is one that another machine may write in."""
    mine = tmp_path / name.format(_files.MACHINE)
    mine.mkdir()
    (mine / "file").write_text("mine")
    write_text(tmp_path / "a", "a")
    assert (mine / "file").read_text() == "mine"


def test_left_over_from_this_machine_and_others(tmp_path):
    """What a killed process left here goes at once, that of another machine when nothing changed for a week."""
    folders = [tmp_path / f".rmve-{machine}-abcd_123" for machine in (_files.MACHINE, "0123abcd", "4567abcd")]
    for folder in folders:
        folder.mkdir()
        (folder / "file").write_text("x")
    for path in (folders[1] / "file", folders[1], folders[2]):  # a file in the last one is new
        os.utime(path, (0, 0))
    write_text(tmp_path / "a", "a")
    assert [folder.exists() for folder in folders] == [False, False, True]


def without_flock(monkeypatch) -> None:
    monkeypatch.setattr(_files, "fcntl", None)


def with_flock_that_fails(monkeypatch) -> None:
    def flock(descriptor, operation):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(_files.fcntl, "flock", flock)


@pytest.mark.parametrize("lose_locks", [without_flock, with_flock_that_fails])
def test_where_there_are_no_locks(tmp_path, monkeypatch, lose_locks):
    """Models are written and read, whole or not at all; nobody is kept out, and nothing is taken for left over."""
    left = tmp_path / "m" / f".rmve-{_files.MACHINE}-abcd_123"
    left.mkdir(parents=True)
    lose_locks(monkeypatch)
    for number in (1, 2):
        write(tmp_path / "m", number)
        assert read(tmp_path / "m") == number
    assert in_a_child(lambda: os._exit(1 if not killed_at(6, lambda: write(tmp_path / "m", 3)) else 0)) == 0
    assert read(tmp_path / "m") in {2, 3}
    with locked(tmp_path / "m"):
        claim(tmp_path / "m")
    assert left.exists()


def test_files_of_other_names_are_left_alone(tmp_path):
    """Beside a model the user may have files of any name, those of temporaries of any program among them."""
    folder = tmp_path / "m"
    write(folder, 1)
    names = [
        f"{before}{name}{after}" for name in visible(folder) for before in (".", ".before-") for after in ("", ".tmp")
    ]
    names += [f".rmve-before-{'0' * 64}-model.pt", ".rmve-before-model.pt", "model.pt~", "model.json.bak"]
    for name in names:
        (folder / name).write_text(f"mine: {name}")
    write(folder, 2)
    killed_at(25, lambda: write(folder, 3))
    write(folder, 4)
    assert read(folder) == 4
    for name in names:
        assert (folder / name).read_text() == f"mine: {name}"
    assert {path.name for path in folder.iterdir()} == {"model.pt", "model.json", "data.bin", *names}


def test_files_reach_the_disk_before_they_are_put_in_place(tmp_path, monkeypatch):
    """A power failure after the renaming must not find empty files: each was handed to the disk before."""
    synced, moved, fsync, replace = set(), [], os.fsync, os.replace

    def note_sync(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def note_move(source, target):
        moved.append((Path(target).name, os.stat(source).st_ino in synced))
        replace(source, target)

    write(tmp_path / "m", 1)
    before = {path.stat().st_ino for path in (tmp_path / "m").iterdir()}
    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_move)
    synced |= before
    write(tmp_path / "m", 2)
    write(tmp_path / "new", 1)
    assert {"model.pt", "model.json", "data.bin", "new"} <= {name for name, _ in moved}
    assert all(was_synced for _, was_synced in moved)
