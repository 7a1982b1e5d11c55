"""Everything people meet is documented: options, commands, states, hooks, errors, words; generated pages are fresh."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

from docs import generate
from flux import errors, states
from tests.house.tree import ROOT, modules

DOCS = ROOT / "docs"


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("path", generate.pages(), ids=lambda path: str(path.relative_to(DOCS)))
def test_a_generated_page_is_fresh(path: Path) -> None:
    assert path.exists(), f"Write {path.relative_to(ROOT)} with `nox -s docs`"
    text = generate.page(generate.pages()[path])
    assert path.read_text(encoding="utf-8") == text, f"{path.relative_to(ROOT)} is stale: run `nox -s docs`"


def test_no_provider_page_is_about_nothing() -> None:
    assert {path.name for path in generate.PROVIDERS.glob("*.md")} == set(generate.providers())


@pytest.mark.parametrize("name", generate.MODULES)
def test_a_generated_module_is_fresh(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == generate.MODULES[name](), f"{name} is stale: run `nox -s docs`"


def error_classes() -> list[type[errors.FluxError]]:
    return [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, errors.FluxError)]


@pytest.mark.parametrize("error", error_classes(), ids=lambda each: each.__name__)
def test_an_error_has_a_section_under_its_code(error: type[errors.FluxError]) -> None:
    sections = re.split(r"^## ", read("errors.md"), flags=re.MULTILINE)
    assert [text for text in sections if text.startswith(f"{error.code}\n") and f"`{error.__name__}`" in text]


def test_no_section_of_errors_is_about_nothing() -> None:
    headings = set(re.findall(r"^## (.+)$", read("errors.md"), flags=re.MULTILINE))
    assert headings == {error.code for error in error_classes()}


def test_the_tree_of_errors_in_the_docstring_is_complete() -> None:
    drawn = set(re.findall(r"\b[A-Z]\w+", errors.__doc__ or ""))
    assert {name for name, value in vars(errors).items() if inspect.isclass(value)} - {"Iterable"} <= drawn


@pytest.mark.parametrize("kind", [states.State, states.RunState, states.Event, states.Outcome, states.RunKind])
def test_every_state_and_event_is_on_the_page_of_states(kind: type[states.State]) -> None:
    text = read("reference/states.md")
    assert [member for member in kind if f"| `{member}` |" not in text] == []


def test_every_state_is_in_the_glossary() -> None:
    text = read("glossary.md")
    assert [state for state in states.State if not re.search(rf"\b{state}\b", text)] == []


def test_the_glossary_names_each_word_once() -> None:
    words = re.findall(r"^\| ([^|]+) \|", read("glossary.md"), flags=re.MULTILINE)
    words = [word for word in words if word.strip("-") and word != "word"]
    assert len(words) == len(set(words)) > 40


def test_every_option_says_its_unit_and_what_it_is_for() -> None:
    config = importlib.import_module("flux.config")
    for option in config.OPTIONS:
        assert option.help.endswith("."), option.name
        assert option.type != "seconds" or option.name.endswith("_seconds"), option.name
        assert option.type != "bytes" or option.name.endswith("_bytes"), option.name


def test_every_public_name_has_a_docstring() -> None:
    missing = []
    for name in ("flux", "flux.operators", "flux.sensors", "flux.plugins", "flux.executor", "flux.testing"):
        module = importlib.import_module(name)
        for each in getattr(module, "__all__", ()):
            value = getattr(module, each)
            if (inspect.isclass(value) or inspect.isroutine(value)) and not (value.__doc__ or "").strip():
                missing.append(f"{name}.{each}")
    assert missing == []


def test_every_module_says_what_it_is_for() -> None:
    exempt = re.compile(r"\.migrations\.(versions|env)\b|__main__$")
    missing = [m.name for m in modules().values() if not ast.get_docstring(m.tree) and not exempt.search(m.name)]
    assert missing == []


def test_every_hook_answers_the_four_questions() -> None:
    specs = importlib.import_module("flux.plugins.specs")
    hooks = [value for name, value in vars(specs).items() if name.startswith("flux_") and inspect.isfunction(value)]
    assert hooks
    for hook in hooks:
        document = inspect.getdoc(hook) or ""
        places = [document.find(word) for word in ("When:", "Combined:", "If it raises:")]
        assert places == sorted(places), hook.__name__
        assert places[0] > 0, hook.__name__


def test_every_hook_is_on_the_page_of_hooks_and_tested() -> None:
    page = read("reference/hooks.md")
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests/core/plugins").glob("test_*.py"))
    names = [name for name in vars(importlib.import_module("flux.plugins.specs")) if name.startswith("flux_")]
    assert [name for name in names if f"## {name}\n" not in page] == []
    assert [name for name in names if name not in tests] == []


@pytest.mark.slow
def test_every_command_has_help_with_an_example() -> None:
    """An epilog or help text that begins with the command as one would type it."""
    import click

    from flux.cli.main import root

    missing = []

    def walk(command: click.Command, path: str) -> None:
        text = f"{command.help or ''}\n{command.epilog or ''}"
        if isinstance(command, click.Group):
            context = click.Context(command, info_name=path)
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None, f"{path} {name}"
                walk(inner, f"{path} {name}")
        elif path.split(" ", 1)[1] not in text or not (command.help or "").strip():
            missing.append(path)

    walk(root, "flux")
    assert missing == []


def test_decisions_are_numbered_and_complete() -> None:
    pages = sorted(path for path in (DOCS / "decisions").glob("*.md") if path.name != "README.md")
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        assert re.findall(r"^## (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE) == [
            "Question",
            "Options",
            "Choice",
            "What would change our mind",
        ], page.name


def test_the_readme_begins_with_the_two_commands() -> None:
    commands = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert commands[0].strip() == "python3 -m venv .venv && .venv/bin/pip install nox && .venv/bin/nox -s demo"
    assert commands[1].strip() == ".venv/bin/nox -s tests"


def test_the_example_names_the_source_of_its_data() -> None:
    folder = ROOT / "examples" / "seattle"
    rows = (folder / "seattle-temps-2010-03.csv").read_text(encoding="utf-8").splitlines()
    assert "NOAA" in (folder / "README.md").read_text(encoding="utf-8")
    assert len(rows) == 1 + 31 * 24 - 1
    assert sum(row.startswith("2010/03/14") for row in rows) == 23


def test_pages_are_named_without_capitals() -> None:
    odd = [str(p.relative_to(ROOT)) for p in DOCS.rglob("*.md") if p.name != "README.md" and p.name != p.name.lower()]
    assert not odd, [Path(each).name for each in odd]


def test_every_namespace_of_drivers_has_a_section() -> None:
    from flux.drivers import NAMESPACES

    text = (ROOT / "docs" / "reference" / "drivers.md").read_text(encoding="utf-8")
    assert [name for name in NAMESPACES if f"\n## {name}\n" not in text] == []


def test_every_namespace_that_is_read_is_one_of_drivers_or_the_providers() -> None:
    discovery, drivers = importlib.import_module("flux.plugins.discovery"), importlib.import_module("flux.drivers")
    scan = importlib.import_module("flux.plugins.scan")
    assert set(discovery.KINDS) == {*drivers.NAMESPACES, scan.PROVIDERS}
    assert [name for name in drivers.NAMESPACES if not name.startswith(scan.GROUPS)] == []


def test_every_option_that_picks_a_driver_or_a_provider_is_explained() -> None:
    """A row in the table of options says what it is, not how to use it."""
    names = [option.name for option in importlib.import_module("flux.config").OPTIONS]
    drivers = [name for name in ("secrets_backends", "log_handlers") if name in names]
    providers = [name for name in names if name.startswith("providers_") or name in ("plugins", "strict", "executor")]
    assert (len(drivers), len(providers)) == (2, 6)
    how = "".join(path.read_text(encoding="utf-8") for path in (DOCS / "how-to").glob("*.md"))
    assert [name for name in drivers if f"`{name}`" not in read("reference/drivers.md")] == []
    assert [name for name in providers if name not in how and f"FLUX_{name.upper()}" not in how] == []


@pytest.mark.parametrize("folder", ["how-to", "providers", "reference"])
def test_an_index_lists_every_page_beside_it(folder: str) -> None:
    """Of decisions and explanations the file names say enough."""
    pages = [path.name for path in (DOCS / folder).glob("*.md") if path.name != "README.md"]
    assert pages
    assert [name for name in pages if f"({name})" not in read(f"{folder}/README.md")] == []


def test_every_link_between_pages_leads_somewhere() -> None:
    pages = [*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *ROOT.glob("flux-*/README.md"), *ROOT.glob("changes/*.md")]
    dead = []
    for page in pages:
        for target, anchor in re.findall(r"\]\(([^)#\s:]*)(?:#([^)\s]+))?\)", page.read_text(encoding="utf-8")):
            other = (page.parent / target).resolve() if target else page
            if not other.exists():
                dead.append(f"{page.relative_to(ROOT)}: {target}")
            elif anchor and other.suffix == ".md" and anchor not in anchors(other):
                dead.append(f"{page.relative_to(ROOT)}: {target}#{anchor}")
    assert dead == []


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
