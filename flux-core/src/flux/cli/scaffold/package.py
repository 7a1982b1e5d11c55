"""The files of a new provider: a package that installs and passes its own tests as it is written.

What is written keeps the layout of `ruff format` whatever the names are: where a line may get too long, it is broken
from the start, with a comma that keeps it so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from string import Template

from flux.cli.scaffold.plan import Plan, class_of, variable_of
from flux.errors import Refused
from flux.plugins.scan import version

#: Characters in a line of the written package.
_WIDTH = 120


def write(plan: Plan, into: Path) -> Path:
    """Write the package's folder into `into`, which is made when it is not there; return it.

    Raises:
        Refused: the folder is there already, or cannot be written. Nothing that was there is changed.
    """
    folder = into / plan.distribution
    if folder.exists() or folder.is_symlink():
        raise Refused(f"{str(folder)!r} is there already. Remove it, or give another place with --into.")
    try:
        for name, text in files(plan).items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Refused(
            f"{str(folder)!r} cannot be written: {error.strerror}. Give another place with --into."
        ) from error
    return folder


def files(plan: Plan) -> dict[str, str]:
    """Return the text of each file by its path in the package's folder."""
    package = _Package(plan)
    return dict(sorted((*package.frame(), *package.source(), *package.tests())))


class _Package:
    """The texts of one provider."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._source = f"src/{plan.package}"
        run = f"FLUX_DAGS_FOLDER=$PWD/examples flux dag test {plan.name}_example 2026-01-01"
        self._common = {
            "name": plan.name,
            "package": plan.package,
            "distribution": plan.distribution,
            "title": plan.title,
            "core": _core_range(),
            # With a connection the example needs a server, which is not everywhere.
            "trial": "flux dag check examples" if plan.connection else run,
        }

    def frame(self) -> Iterator[tuple[str, str]]:
        """What is around the code."""
        for path, template in (
            ("pyproject.toml", "pyproject"),
            ("CHANGELOG.md", "changelog"),
            ("LICENSE", "licence"),
            (".gitignore", "gitignore"),
            (".github/workflows/ci.yml", "ci"),
        ):
            yield path, self._filled(template)
        contents = "".join(f"- `{name}`: {summary}\n" for _, name, _, _, summary in self._offers())
        yield "README.md", self._filled("readme", contents=contents)
        yield f"examples/{self._plan.name}_example.py", self._example()

    def source(self) -> Iterator[tuple[str, str]]:
        """The package."""
        plan, folder = self._plan, self._source
        yield f"{folder}/__init__.py", self._filled("package")
        yield f"{folder}/py.typed", ""
        hooks = "".join(self._hooks()).rstrip("\n")
        markers = "ConnectionType, Ref, hookimpl" if plan.connection else "Ref, hookimpl"
        yield f"{folder}/provider.py", self._filled("provider", hooks=hooks, markers=markers)
        for module, classes in (("operators", plan.operators), ("sensors", plan.sensors)):
            if classes:
                yield f"{folder}/{module}.py", self._classes(module, classes)
        if plan.connection:
            yield f"{folder}/client.py", self._filled("client")
        if plan.executor:
            yield f"{folder}/executor.py", self._filled("executor", class_name=plan.executor_class)
        if plan.macros:
            functions = "".join(self._filled("macro", macro=each) for each in plan.macros).rstrip("\n")
            yield f"{folder}/macros.py", self._filled("macros", names=_listed(plan.macros), functions=functions)

    def tests(self) -> Iterator[tuple[str, str]]:
        """The tests, which hold the package to what Flux asks."""
        plan = self._plan
        own = list(self._imports())
        imports = "\n".join(["", *own, ""] if own else [""])
        tests = "".join(self._tests()).rstrip("\n")
        yield "tests/test_conformance.py", self._filled("conformance", imports=imports, tests=tests)
        hooks = dict.fromkeys(hook for hook, *_ in self._offers())
        checks = [f"_{hook}: protocols.{class_of(hook)} = manifest" for hook in hooks]
        yield (
            "tests/manifest_types.py",
            self._filled("manifest_types", checks="\n".join(["_manifest: protocols.Manifest = manifest", *checks])),
        )
        if plan.connection:
            yield "tests/conftest.py", self._filled("world_of_client")
            yield "tests/server.py", self._filled("server")
        elif plan.sensors:
            yield "tests/conftest.py", self._filled("world")

    def _filled(self, template: str, **values: str) -> str:
        text = resources.files(__package__).joinpath(f"{template}.txt").read_text(encoding="utf-8")
        return Template(text).substitute(self._common, **values)

    def _offers(self) -> Iterator[tuple[str, str, str, str, str]]:
        """(hook, name, module, what is there, summary) of everything the provider has, as its manifest lists it."""
        plan = self._plan
        place = "on a server" if plan.connection else "into a file of a folder"
        for each in plan.operators:
            yield "operators", each, "operators", each, f"Write a text {place}."
        waits = "Wait until a server has something." if plan.connection else "Wait until a file is in a folder."
        for each in plan.sensors:
            yield "sensors", each, "sensors", each, waits
        if plan.executor:
            summary = "Run each attempt as a program of its own on this machine."
            yield "executors", plan.executor, "executor", plan.executor_class, summary
        for each in plan.macros:
            yield "macros", each, "macros", each, "The first day of the month of a date."
        if plan.connection:
            yield "connection_types", plan.name, "client", f"{plan.title}Client", "Keeps texts by name on a server."

    def _hooks(self) -> Iterator[str]:
        for hook in ("operators", "sensors", "executors", "macros"):
            refs = [
                self._filled("ref", ref=name, module=module, attribute=attribute, summary=summary)
                for of, name, module, attribute, summary in self._offers()
                if of == hook
            ]
            if refs:
                yield self._filled("hook", hook=hook, refs="".join(refs).rstrip("\n"))
        if self._plan.connection:
            yield self._filled("connection_type")

    def _imports(self) -> Iterator[str]:
        """An import for each module that offers what tests and DAG files name, in the order that isort has them."""
        names: dict[str, list[str]] = {}
        for _, _, module, attribute, _ in self._offers():
            if module != "client":
                names.setdefault(module, []).append(attribute)
        for module, attributes in sorted(names.items()):
            ordered = sorted(attributes, key=str.lower)
            line = f"from {self._plan.package}.{module} import {', '.join(ordered)}"
            if len(line) > _WIDTH:
                line = f"{line.partition('import ')[0]}import (\n" + "".join(f"    {each},\n" for each in ordered) + ")"
            yield line

    def _tests(self) -> Iterator[str]:
        plan = self._plan
        folder = "" if plan.connection else '"folder": "{tmp}", '
        for each in plan.operators:
            yield self._filled("test_operator", class_name=each, arguments=f'{{{folder}"text": "{{{{ ds }}}}"}}')
        for each in plan.sensors:
            yield self._filled("test_sensor", class_name=each, arguments=f'{{{folder}"name": "ready"}}')
        if plan.executor:
            yield self._filled("test_executor", class_name=plan.executor_class)
        for each in plan.macros:
            yield self._filled("test_macro", class_name=class_of(each), macro=each)
        if plan.connection:
            yield self._filled("test_connection")

    def _classes(self, module: str, classes: Sequence[str]) -> str:
        kind = "_of_client" if self._plan.connection else ""
        bodies = [self._filled(f"{module.removesuffix('s')}{kind}", class_name=each) for each in classes]
        text = "".join(bodies).rstrip("\n")
        return self._filled(f"{module}{kind}", names=_listed(classes), classes=text)

    def _example(self) -> str:
        """A DAG file that uses everything that a DAG file can."""
        plan = self._plan
        folder = [] if plan.connection else ["folder=FOLDER"]
        tasks = {variable_of(each): (each, [*folder, 'text="{{ ds }}"']) for each in plan.operators}
        if plan.sensors and not plan.operators and not plan.connection:
            command = "mkdir -p $FOLDER && touch $FOLDER/{{ ds }}.txt"
            tasks["put_file"] = ("BashOperator", [f'bash_command="{command}"', 'env={"FOLDER": FOLDER}'])
        for each in plan.sensors:
            tasks[variable_of(each)] = (each, [*folder, "poke_interval=1", "timeout=60"])
        for each in plan.macros:
            command = f'bash_command="echo {{{{ macros.{plan.name}.{each}(ds) }}}}"'
            tasks[f"say_{each}"] = ("BashOperator", [command])
        if not tasks:
            tasks["say_where"] = ("BashOperator", ['bash_command="hostname"'])
        lines = [
            "\n".join(
                [f"    {name} = {operator}(", *(f"        {each}," for each in (f'task_id="{name}"', *given)), "    )"]
            )
            for name, (operator, given) in tasks.items()
        ]
        lines += [f"    {first} >> {second}" for first, second in zip(tasks, list(tasks)[1:], strict=False)]
        head = ["from flux import DAG"]
        if any(operator == "BashOperator" for operator, _ in tasks.values()):
            head.append("from flux.operators import BashOperator")
        if plan.operators or plan.sensors:
            head += ["", *(line for line in self._imports() if ".operators " in line or ".sensors " in line)]
            head += [] if plan.connection else ["", f'FOLDER = "/tmp/{plan.name}_example"']
        return self._filled("example", imports="\n".join(head), tasks="\n".join(lines))


def _core_range() -> str:
    """The releases of flux-core that the package asks for: from this minor one, to the next that may break it."""
    major, minor = (*(version("flux-core") or "0").split("."), "0")[:2]
    return f">={major}.{minor},<{f'{major}.{int(minor) + 1}' if major == '0' else int(major) + 1}"


def _listed(names: Sequence[str]) -> str:
    return "\n".join(f'    "{each}",' for each in names)
