"""The file tools: what they do inside the workspace, and that nothing leads out of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from activities.tools import Toolbox, ToolContext, ToolFailed
from activities.tools import files as file_tools
from workflows.errors import cut

Call = Callable[..., Any]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    folder.mkdir()
    (tmp_path / "secret").write_text("hidden")
    return folder


@pytest.fixture
def call(workspace: Path) -> Call:
    """Calls a built-in tool by its name, as an action does."""
    tools = Toolbox.builtin()

    def called(name: str, attempt: int = 1, **parameters: Any) -> Any:
        found = tools.get(name)
        assert found is not None
        context = ToolContext(idempotency_key="k", workspace=workspace, attempt=attempt)
        return found.function(**found.arguments(parameters), context=context)

    return called


def _failure(call: Call, name: str, **parameters: Any) -> str:
    with pytest.raises(ToolFailed) as failed:
        call(name, **parameters)
    return str(failed.value)


ANY_TOOL = pytest.mark.parametrize(
    ("name", "more"),
    [
        ("read_file", {}),
        ("list_dir", {}),
        ("find_files", {"pattern": "*"}),
        ("grep_files", {"pattern": "x"}),
        ("write_file", {"content": "x"}),
        ("edit_file", {"old_text": "hidden", "new_text": "x"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)


@ANY_TOOL
@pytest.mark.parametrize("path", ["../secret", "../../etc/passwd", "a/../../secret", "/etc/passwd", ".."])
def test_path_out_of_the_workspace_is_refused(call: Call, name: str, more: dict[str, Any], path: str) -> None:
    """No '..' and no absolute path leads out, whatever the tool."""
    assert _failure(call, name, path=path, **more) == (
        f"path {path!r} leads out of the workspace. Give a path inside it, relative to the workspace."
    )


@ANY_TOOL
def test_symbolic_link_is_not_followed(call: Call, workspace: Path, name: str, more: dict[str, Any]) -> None:
    """Neither a link as the path nor one on the way to it, wherever it points."""
    (workspace / "out").symlink_to(workspace.parent)
    told = "is a symbolic link, which the file tools do not follow. Give the path that it stands for."
    assert _failure(call, name, path="out/secret", **more) == f"'out' {told}"
    assert _failure(call, name, path="out", **more) == f"'out' {told}"
    assert (workspace.parent / "secret").read_text() == "hidden"
    assert (workspace / "out").is_symlink()


def test_search_does_not_enter_links(call: Call, workspace: Path) -> None:
    """Links to folders and to files outside are passed over, and listed as what they are."""
    (workspace / "folder").symlink_to(workspace.parent)
    (workspace / "file").symlink_to(workspace.parent / "secret")
    assert call("find_files", pattern="**") == {"files": []}
    assert call("grep_files", pattern="hidden") == {"matches": []}
    assert call("list_dir") == {"entries": ["file@", "folder@"]}


def test_folder_swapped_for_a_link_meanwhile_is_not_followed(
    call: Call, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two parts of a path the world may change; each is opened without following links."""
    (workspace / "a").mkdir()
    (workspace / "a" / "secret").write_text("mine")
    really_open = os.open

    def open_after_a_swap(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if path == "a":
            (workspace / "a").rename(workspace / "b")
            (workspace / "a").symlink_to(workspace.parent)
        return really_open(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", open_after_a_swap)
    told = "'a' is a symbolic link, which the file tools do not follow. Give the path that it stands for."
    assert _failure(call, "read_file", path="a/secret") == told


def test_absolute_path_inside_the_workspace_is_taken(call: Call, workspace: Path) -> None:
    """Models like to give them."""
    (workspace / "a.txt").write_text("text")
    assert call("read_file", path=str(workspace / "x" / ".." / "a.txt")) == "text"


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("gone/a.txt", "'gone' is not in the workspace. Look at what there is with list_dir."),
        ("gone.txt", "'gone.txt' is not in the workspace. Look at what there is with list_dir."),
        ("a.txt/b", "'a.txt' is a file and no folder."),
        ("folder", "'folder' is a folder. Give the path of a file."),
        (".", "path '.' is the workspace itself, which is a folder. Give the path of a file."),
        ("pipe", "'pipe' is no regular file. Give the path of a file."),
        ("binary", "'binary' is not UTF-8 text: byte 1 does not belong there."),
        ("nul\0", "path 'nul\\x00' holds a null character"),
        ("x" * 300, f"'{'x' * 200}… (300 characters)' cannot be used: File name too long."),
    ],
    ids=["no folder", "no file", "through a file", "folder", "workspace", "pipe", "binary", "null", "long"],
)
def test_read_file_tells_what_it_cannot_read(call: Call, workspace: Path, path: str, told: str) -> None:
    """Each with its name and what to do; nothing hangs, a pipe without a writer neither."""
    (workspace / "a.txt").write_text("text")
    (workspace / "folder").mkdir()
    (workspace / "binary").write_bytes(b"a\xff")
    os.mkfifo(workspace / "pipe")
    assert _failure(call, "read_file", path=path) == told


def test_read_file_reads_parts(call: Call, workspace: Path) -> None:
    """Lines from a number on, as many as asked for, with a note of what follows."""
    (workspace / "a.txt").write_text("one\ntwo\nthree\n")
    assert call("read_file", path="a.txt") == "one\ntwo\nthree\n"
    assert call("read_file", path="a.txt", start_line=2) == "two\nthree\n"
    assert call("read_file", path="a.txt", start_line=2, max_lines=2) == "two\nthree\n"
    noted = "two\n[cut here: 6 bytes follow; go on with start_line=3]"
    assert call("read_file", path="a.txt", start_line=2, max_lines=1) == noted
    assert _failure(call, "read_file", path="a.txt", start_line=9) == "'a.txt' has 3 lines, and start_line is 9."
    assert _failure(call, "read_file", path="a.txt", start_line=0) == (
        "start_line is 0 and max_lines is None; both are at least 1."
    )


def test_read_file_is_cut_with_a_note(call: Call, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between lines where that is possible, else between characters; the note says how to go on."""
    monkeypatch.setattr(file_tools, "READ_BYTES", 10)
    (workspace / "lines").write_text("12345\n123\n12345\n")
    (workspace / "line").write_text("ab" + "€" * 5 + "\n")
    assert call("read_file", path="lines") == "12345\n123\n[cut here: 6 bytes follow; go on with start_line=3]"
    assert call("read_file", path="lines", start_line=3) == "12345\n"
    assert call("read_file", path="line") == "ab€€\n[cut here: 8 bytes follow, and line 1 does not end before]"


def test_list_dir_lists_in_order(call: Call, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names in order, folders marked, and what is left out counted."""
    (workspace / "folder" / "inner").mkdir(parents=True)
    (workspace / "b.txt").touch()
    (workspace / "a.txt").touch()
    assert call("list_dir") == {"entries": ["a.txt", "b.txt", "folder/"]}
    assert call("list_dir", path="folder") == {"entries": ["inner/"]}
    monkeypatch.setattr(file_tools, "LISTED_ENTRIES", 1)
    assert call("list_dir") == {"entries": ["a.txt"], "note": "2 more entries are left out"}


def test_write_file_writes_whole_files(call: Call, workspace: Path) -> None:
    """Folders are made, permissions stay, nothing unfinished is left, and twice is once."""
    for _ in range(2):
        assert call("write_file", path="new/a.txt", content="é\n") == {"path": "new/a.txt", "bytes": 3}
    (workspace / "new" / "a.txt").chmod(0o750)
    call("write_file", path="new/a.txt", content="b")
    assert (workspace / "new" / "a.txt").read_text() == "b"
    assert (workspace / "new" / "a.txt").stat().st_mode & 0o777 == 0o750
    assert os.listdir(workspace / "new") == ["a.txt"]  # noqa: PTH208 - hidden ones too


def test_write_file_replaces_no_folder(call: Call, workspace: Path) -> None:
    """Nor anything else that is no regular file."""
    (workspace / "folder").mkdir()
    told = "'folder' is no regular file. Give the path of a file."
    assert _failure(call, "write_file", path="folder", content="x") == told


def test_write_file_that_fails_leaves_the_file(call: Call, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk changes nothing and leaves nothing behind."""
    (workspace / "a.txt").write_text("before")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    told = "'a.txt' cannot be used: No space left on device."
    assert _failure(call, "write_file", path="a.txt", content="after") == told
    assert {path.name: path.read_text() for path in workspace.iterdir()} == {"a.txt": "before"}


def test_edit_file_replaces_the_one_passage(call: Call, workspace: Path) -> None:
    """A passage that occurs once, line breaks included."""
    (workspace / "a.txt").write_text("one\ntwo\nthree\n")
    edited = call("edit_file", path="a.txt", old_text="one\ntwo", new_text="1\n2")
    assert edited == {"path": "a.txt", "bytes": 10}
    assert (workspace / "a.txt").read_text() == "1\n2\nthree\n"


@pytest.mark.parametrize(
    ("old_text", "told"),
    [
        ("", "old_text is empty. Give the passage to replace, exactly as it stands in the file."),
        (
            "four",
            "'a.txt' does not hold old_text. Read the file, and give the passage exactly as it stands.",
        ),
        ("o", "'a.txt' holds old_text 2 times. Give more of what stands around the one you mean."),
    ],
)
def test_edit_file_refuses_what_is_not_unique(call: Call, workspace: Path, old_text: str, told: str) -> None:
    """Nothing is guessed, and the file stays as it is."""
    (workspace / "a.txt").write_text("one\ntwo\n")
    assert _failure(call, "edit_file", path="a.txt", old_text=old_text, new_text="x") == told
    assert (workspace / "a.txt").read_text() == "one\ntwo\n"


@pytest.mark.parametrize(
    ("old_text", "new_text", "after"),
    [("two", "2", "one 2\n"), ("two", "two, too", "one two, too\n"), (" two", "", "one\n")],
    ids=["replaced", "added to", "removed"],
)
def test_edit_file_twice_is_once(call: Call, workspace: Path, old_text: str, new_text: str, after: str) -> None:
    """The attempt after a lost one finds the edit done and leaves it so."""
    (workspace / "a.txt").write_text("one two\n")
    for attempt in (1, 2):
        call("edit_file", attempt=attempt, path="a.txt", old_text=old_text, new_text=new_text)
        assert (workspace / "a.txt").read_text() == after


def test_edit_file_of_a_large_file_is_refused(call: Call, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit holds the file in memory."""
    monkeypatch.setattr(file_tools, "EDIT_BYTES", 3)
    (workspace / "a.txt").write_text("long")
    told = "'a.txt' has more than 0 MB, which is the limit of edit_file."
    assert _failure(call, "edit_file", path="a.txt", old_text="l", new_text="x") == told


def test_path_of_endless_parts_is_refused(call: Call) -> None:
    """A search opens every part again for each folder."""
    path = "/".join(["d"] * 101)
    assert _failure(call, "write_file", path=path, content="x") == (
        f"path {cut(path)!r} has 101 parts and the limit is 100."
    )


def test_name_of_endless_length_is_refused(call: Call) -> None:
    """In our words, as what any other operation of the file system refuses."""
    name = "n" * 300
    assert _failure(call, "write_file", path=name, content="x") == (
        f"{cut(name)!r} cannot be used: File name too long."
    )


def test_read_file_takes_any_number_of_lines(call: Call, workspace: Path) -> None:
    """More than the machine can count is as good as all of them."""
    (workspace / "a").write_text("x")
    assert call("read_file", path="a", max_lines=10**30) == "x"
