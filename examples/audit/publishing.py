"""The report on disk: put in place, checked, taken back, or kept.

Law: readers see the report before or the report after, never half of one, and no file that is no audit report is ever
replaced. Every function here may run again, after a crash at any line, and leaves the same files.

    report.md                     the report; its first line names its edition, the run that wrote it
    report.md.before-<edition>    the one before, while its successor is on trial
    report.previous.md            the one before, once its successor has been verified
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from examples.audit.findings import Publication
from examples.audit.source import digest
from workflows.errors import StepFailed

MARK = "<!-- audit report, edition "
EDITION_LENGTH = 8
# Enough to tell the few editions in one folder apart.


def publish(output: str, edition: str, body: str, told: Callable[[str], None]) -> Publication:
    """Put a report in place; the one before stays beside it. `told` hears of each stage, and may raise to stop."""
    report = _located(output)
    _refuse_foreign(report)
    report.parent.mkdir(parents=True, exist_ok=True)
    before = _before(report, edition)
    if report.is_file() and _edition_of(report) != edition and not before.exists():
        told("keeping the report before")
        _copied(report, before)
    told("writing the report")
    content = f"{MARK}{edition} -->\n{body}".encode()
    fresh = report.with_name(f"{report.name}.writing-{edition[:EDITION_LENGTH]}")
    fresh.write_bytes(content)
    fresh.replace(report)
    return Publication(path=str(report), digest=digest(content), edition=edition)


def withdraw(output: str, edition: str) -> str:
    """Undo `publish`, however far it came; says what it did. A report of another edition is left alone."""
    report = _located(output)
    before = _before(report, edition)
    report.with_name(f"{report.name}.writing-{edition[:EDITION_LENGTH]}").unlink(missing_ok=True)
    if report.is_file() and _edition_of(report) != edition:
        before.unlink(missing_ok=True)
        return f"{report}: this edition is not in place; the report there stays"
    if before.is_file():
        before.replace(report)
        return f"{report}: withdrawn, and the report before is in its place again"
    report.unlink(missing_ok=True)
    return f"{report}: withdrawn; there was no report before"


def archive(output: str, edition: str) -> str:
    """Keep the report before as the previous one; says where."""
    report = _located(output)
    before, previous = _before(report, edition), report.with_suffix(f".previous{report.suffix}")
    if not before.is_file():
        return "there was no report before"
    before.replace(previous)
    return f"the report before is kept as {previous}"


def verify(publication: Publication, root: str, digests: dict[str, str]) -> str:
    """Make sure that the report is the one that was written, and that its findings still hold.

    Raises `StepFailed` where the report on disk is another one, or where an inspected file has changed since: its line
    numbers would lead astray.
    """
    report = Path(publication.path)
    if not report.is_file() or digest(report.read_bytes()) != publication.digest:
        raise StepFailed(f"{report} is not what edition {publication.edition!r} wrote; another program changed it.")
    changed = [path for path, read in digests.items() if _digest_of(Path(root) / path) != read]
    if changed:
        named = ", ".join(repr(path) for path in changed[:3]) + (f" and {len(changed) - 3} more" if changed[3:] else "")
        raise StepFailed(f"{named} changed while the audit ran, so it is out of date. Run it again.")
    return f"{report} is in place, and all {len(digests):,} inspected files are unchanged"


def _located(output: str) -> Path:
    return Path(output).expanduser().absolute()


def _before(report: Path, edition: str) -> Path:
    return report.with_name(f"{report.name}.before-{edition[:EDITION_LENGTH]}")


def _copied(source: Path, target: Path) -> None:
    """Copy in one step: a crash leaves no half of it under the target's name."""
    half = target.with_name(f"{target.name}.half")
    shutil.copyfile(source, half)
    half.replace(target)


def _edition_of(report: Path) -> str | None:
    """The edition that a file's first line names; None where it is no audit report."""
    with report.open(encoding="utf-8", errors="replace") as opened:
        first = opened.readline().strip()
    return first.removeprefix(MARK).removesuffix(" -->") if first.startswith(MARK) else None


def _refuse_foreign(report: Path) -> None:
    if report.is_dir():
        raise StepFailed(f"output {str(report)!r} is a folder; give the path of a file.")
    if report.is_file() and _edition_of(report) is None:
        raise StepFailed(
            f"output {str(report)!r} exists and is no audit report; it is not replaced. Name another file."
        )


def _digest_of(file: Path) -> str | None:
    try:
        return digest(file.read_bytes())
    except OSError:
        return None  # gone, which is a change too
