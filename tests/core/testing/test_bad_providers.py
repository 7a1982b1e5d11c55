"""The kit names what is wrong with a provider: one package for each defect, beside each other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytestmark = pytest.mark.slow

ACME = Path(__file__).parent / "acme"
MODULES = ("provider", "client", "operators", "sensors", "executors", "macros")
METADATA = "Metadata-Version: 2.1\nName: flux-provider-acme\nVersion: 0.1\nRequires-Dist: flux-core>=0.1,<0.2\n"
#: Runs of pytest beside each other: most of the time is waiting for what does not come.
SESSIONS = 4
ENTRY_POINTS = "[flux.providers]\nacme = flux_provider_acme.provider\n"


@dataclass(frozen=True)
class Defect:
    """A row of defects.toml."""

    name: str
    file: str
    old: str
    new: str
    test: str
    words: list[str]


DEFECTS = [Defect(**each) for each in tomllib.loads((ACME / "defects.toml").read_text(encoding="utf-8"))["defect"]]
GOOD = Defect("good", "provider", "", "", "", [])
DECLARED = Defect(
    "declared",
    "tests",
    "long_running, long",
    "unsupported = {'kill': 'nobody can'}\n    long_running, long",
    "TestLoad::test_a_kill_stops_its_work",
    [],
)


def renamed(text: str, number: int) -> str:
    """The text with names of its own, so that many packages can be installed beside each other."""
    text = text.replace("flux_provider_acme", f"flux_provider_acme{number}").replace("Acme", f"Acme{number}")
    text = text.replace("flux-provider-acme", f"flux-provider-acme{number}")
    return re.sub(r"\bacme(?=\b|_default|_conn_id)", f"acme{number}", text)


def write(folder: Path, number: int, defect: Defect) -> None:
    """Install a package with one defect, and put its author's tests beside it."""
    package = folder / f"flux_provider_acme{number}"
    metadata = folder / f"flux_provider_acme{number}-0.1.dist-info"
    package.mkdir()
    metadata.mkdir()
    files = {name: (ACME / f"{name}.py").read_text(encoding="utf-8") for name in MODULES}
    files |= {"metadata": METADATA, "entry_points": ENTRY_POINTS, "py.typed": "", "__init__": ""}
    files["tests"] = (ACME / "conformance.py").read_text(encoding="utf-8")
    if defect.file == "py.typed":
        del files["py.typed"]
    elif defect.file != "twin":
        assert defect.old in files[defect.file], f"{defect.name}: {defect.old!r} is not in {defect.file}"
        files[defect.file] = files[defect.file].replace(defect.old, defect.new)
    if defect.file == "twin":
        twin = folder / f"other_acme{number}-0.1.dist-info"
        twin.mkdir()
        (twin / "METADATA").write_text(f"Metadata-Version: 2.1\nName: other-acme{number}\nVersion: 0.2\n")
        (twin / "entry_points.txt").write_text(renamed(ENTRY_POINTS, number))
    places = {"metadata": metadata / "METADATA", "entry_points": metadata / "entry_points.txt"}
    places |= {"tests": folder / f"test_{defect.name}.py", "py.typed": package / "py.typed"}
    for name, text in files.items():
        places.get(name, package / f"{name}.py").write_text(renamed(text, number), encoding="utf-8")


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Map "defect::Class::test" to what the test said; "" when it passed. Parameters are left out."""
    folder = tmp_path_factory.mktemp("providers")
    (folder / "acmelib.py").write_text((ACME / "acmelib.py").read_text(encoding="utf-8"), encoding="utf-8")
    for number, defect in enumerate((*DEFECTS, GOOD, DECLARED), 1):
        write(folder, number, defect)
    chosen = [f"test_{defect.name}.py::{defect.test}".removesuffix("::") for defect in (*DEFECTS, GOOD, DECLARED)]
    options = ["-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(folder)]
    reports = [folder / f"report{number}.xml" for number in range(SESSIONS)]
    sessions = [
        subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, f"--junitxml={report}", *chosen[number::SESSIONS]],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number, report in enumerate(reports)
    ]
    output = "".join(session.communicate()[0][-3000:] for session in sessions)
    found: dict[str, str] = {}
    for case in (case for report in reports for case in ElementTree.parse(report).iter("testcase")):
        module, _, kind = case.attrib["classname"].removeprefix("test_").rpartition(".")
        name = f"{module}::{kind}::{case.attrib['name'].partition('[')[0]}"
        outcome = next((each for each in case if each.tag in ("failure", "error", "skipped")), None)
        said = "" if outcome is None else f"{outcome.tag}: {outcome.attrib.get('message', '')}\n{outcome.text or ''}"
        found[name] = (found.get(name, "") + "\n" + said).strip()
    assert found, output
    return found


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_a_defect_is_named(messages: dict[str, str], defect: Defect) -> None:
    name = f"{defect.name}::{defect.test}"
    assert name in messages, f"{name} was not run"
    said = messages[name]
    number = DEFECTS.index(defect) + 1
    assert said.startswith(("failure", "error")), said or "it passed"  # an error: before the test itself
    plain = re.sub(rf"([Aa]cme){number}\b|([Aa]cme){number}(?=[A-Z_])", r"\1\2", said)
    assert [word for word in defect.words if word not in plain] == [], said


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_the_message_has_no_traceback_into_the_kit(messages: dict[str, str], defect: Defect) -> None:
    """But where the author's own class raised what no method may raise."""
    said = messages[f"{defect.name}::{defect.test}"]
    assert "flux/testing/" not in said or defect.name == "cancel_strict", said


def test_the_good_provider_passes_every_test(messages: dict[str, str]) -> None:
    own = {name: said for name, said in messages.items() if name.startswith("good::")}
    assert len(own) > 80
    assert {name: said for name, said in own.items() if said} == {}


def test_a_declaration_skips_with_its_reason(messages: dict[str, str]) -> None:
    assert messages["declared::TestLoad::test_a_kill_stops_its_work"].startswith("skipped: unsupported: nobody can")
