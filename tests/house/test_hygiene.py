"""What is in the repository: no machine's paths, no package index, no secrets, nothing generated, nothing large."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Written so that this file does not match itself.
FORBIDDEN = {
    "a machine's path": r"(?<![\w.$}\"'])/(roo[t]|hom[e]/[a-z][\w-]*|User[s]/\w+|wor[k]/(?:main|shared)|tm[p]/[a-z]{1,2}/)(?=[/\s:'\"`]|$)",
    "a package index": r"pypi\.or[g]|pythonhosted\.or[g]|registry\.npmj[s]|(?:deb|security)\.debia[n]|proxy\.golan[g]|index\.crates\.i[o]",
    "a private key": r"-----BEGI[N] (?:[A-Z]+ )*PRIVATE KEY-----",
    "an access key": r"\b(?:AKI[A][0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}|xox[abp]-[0-9A-Za-z-]{20,}|sk-[A-Za-z0-9_-]{32,})\b",
    "a merge left open": r"^(?:<{7} |>{7} )",
}
GENERATED = re.compile(
    r"(^|/)(__pycache__|\.venv[^/]*|\.hypothesis|\.mypy_cache|\.ruff_cache|\.pytest_cache|\.guardtrail|dist|build)/|\.(pyc|pyo|log|sqlite|db)$|^benchmarks/results\.json$"
)
LARGEST = 1_000_000


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """Tracked files and those that would be: untracked and not ignored."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    said = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [ROOT / name for name in sorted(set(said.split("\0"))) if name and (ROOT / name).is_file()]


def texts(files: list[Path]) -> list[tuple[str, str]]:
    found = []
    for file in files:
        data = file.read_bytes()
        if b"\0" not in data[:4096]:
            found.append((str(file.relative_to(ROOT)), data.decode("utf-8", errors="replace")))
    return found


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no(what: str, files: list[Path]) -> None:
    pattern = re.compile(FORBIDDEN[what], re.MULTILINE)
    hits = [
        f"{name}:{text.count(chr(10), 0, hit.start()) + 1}: {hit.group()[:40]}"
        for name, text in texts(files)
        for hit in pattern.finditer(text)
    ]
    assert hits == []


def test_the_patterns_find_what_they_are_for() -> None:
    bad = {
        "a machine's path": ["see /ro" + "ot/x", "/ho" + "me/anna/src", "cd /wor" + "k/main"],
        "a package index": ["https://py" + "pi.org/simple"],
        "a private key": ["-----BEG" + "IN EC PRIVATE KEY-----"],
        "an access key": ["AK" + "IA" + "A" * 16],
        "a merge left open": ["<" * 7 + " HEAD"],
    }
    assert set(bad) == set(FORBIDDEN)
    for what, cases in bad.items():
        for case in cases:
            assert re.search(FORBIDDEN[what], case, re.MULTILINE), (what, case)


def test_nothing_generated(files: list[Path]) -> None:
    assert [name for file in files if GENERATED.search(name := str(file.relative_to(ROOT)))] == []


def test_nothing_large(files: list[Path]) -> None:
    assert [str(file.relative_to(ROOT)) for file in files if file.stat().st_size > LARGEST] == []


def test_no_links_out_of_the_repository(files: list[Path]) -> None:
    assert [str(file) for file in files if file.is_symlink() and not file.resolve().is_relative_to(ROOT)] == []


def test_files_end_as_text_files_do(files: list[Path]) -> None:
    def bad(name: str, text: str) -> bool:
        return (
            name.endswith((".py", ".md", ".toml", ".yaml", ".yml", ".sh"))
            and bool(text)
            and (not text.endswith("\n") or "\r" in text or "\t" in text)
        )

    assert [name for name, text in texts(files) if bad(name, text) and not name.startswith("tests/")] == []
