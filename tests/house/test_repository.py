"""The tree as a stranger gets it: no private address, no path of somebody's machine, links that lead somewhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from tests.house.tree import ROOT, files

TEXT = (".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".sh", ".cfg", ".ini", ".mako", ".html", ".json", "")
#: Hosts that a page or a licence may point to. A package registry is none of them.
HOSTS = re.compile(
    r"(^|\.)(example\.(com|org)|github\.com|apache\.org|python\.org|readthedocs\.io|sqlalchemy\.org|postgresql\.org"
    r"|sqlite\.org|noaa\.gov|wikipedia\.org|w3\.org|rfc-editor\.org|man7\.org|keepachangelog\.com|localhost)$|^127\.|^\["
)
URL = re.compile(r"\b[a-z][a-z0-9+.-]*://(?:[^\s/@\"'<>`]*@)?([A-Za-z0-9.\[\]:-]+)")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def texts() -> dict[Path, str]:
    found = {}
    for path in files(*TEXT):
        if path.name != "LICENSE":
            found[path] = path.read_text(encoding="utf-8", errors="replace")
    return found


def test_no_address_leads_to_a_registry_or_a_private_host() -> None:
    found = []
    for path, text in texts().items():
        for match in URL.finditer(text):
            scheme = match.group(0).partition(":")[0]
            host = match.group(1).rpartition(":")[0] if re.search(r":\d+$", match.group(1)) else match.group(1)
            if scheme in ("http", "https", "git", "ssh", "ftp") and "." in host and not HOSTS.search(host.strip(".")):
                found.append(f"{path.relative_to(ROOT)}: {match.group(0)}")
    assert not found, "\n".join(found)


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    places = {str(ROOT), str(ROOT.parent), str(Path.home())} - {
        "/",
        "/tmp",
        "/root",
        "/home",
        "/usr",
        "/opt",
        "/srv",
        "/builds",
    }
    anywhere = re.compile(
        "|".join(
            [
                *(r"(?<![\w.}~])" + re.escape(place) + r"/" for place in sorted(places)),
                r"/home/[a-z]\w*/",
                r"/Users/\w+/",
                r"/ro{2}t/\w",
            ]
        )
    )
    found = [
        f"{path.relative_to(ROOT)}: {match.group(0)}"
        for path, text in texts().items()
        if path != Path(__file__)
        for match in [anywhere.search(text)]
        if match
    ]
    assert not found, "\n".join(found)


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for path in files(".md"):
        text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in LINK.findall(text):
            place, _, anchor = target.partition("#")
            if "://" in target:
                continue
            other = (path.parent / place).resolve() if place else path
            if not other.exists():
                broken.append(f"{path.relative_to(ROOT)}: {target}")
            elif anchor and other.suffix == ".md" and anchor not in anchors(other):
                broken.append(f"{path.relative_to(ROOT)}: no heading for #{anchor} in {place or path.name}")
    assert not broken, "\n".join(broken)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as Git hosts make them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_no_file_leaves_work_for_later() -> None:
    words = ("TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error")
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for path, text in texts().items()
        if path.suffix == ".py"
        for word in words
        if re.search(rf"\b{word}\b", text)
    ]
    assert not found, found


def test_every_change_file_is_named_for_its_issue_and_kind() -> None:
    pattern = re.compile(r"\d+\.(feature|bugfix|doc|removal|internal)(\.\d+)?\.md")
    wrong = [
        path.name
        for path in files(".md")
        if path.parent == ROOT / "changes" and path.name != "README.md" and not pattern.fullmatch(path.name)
    ]
    assert not wrong, wrong


def test_packages_have_one_version() -> None:
    found = {
        path.parent.name: tomllib.loads(path.read_text())["project"] for path in ROOT.glob("flux-*/pyproject.toml")
    }
    assert len({project["version"] for project in found.values()}) == 1
    assert all((ROOT / name / "CHANGELOG.md").exists() and (ROOT / name / "README.md").exists() for name in found)
