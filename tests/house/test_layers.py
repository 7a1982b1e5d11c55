"""The layering rule: a module imports from its own layer and from lower ones, and there are no cycles.

Deferred imports count like others; what stands under `if TYPE_CHECKING` does not.
"""

from __future__ import annotations

from tests.house.layers import LAYER, LAYERS, layer
from tests.house.tree import ROOT, imports, modules, strongly_connected

#: `import flux` offers names of layers 0 to 3, and no module of Flux imports it.
TOP = "flux"
OFFERED = 3
#: The one named door: `dag.run(...)` and its like load `flux.interactive`.
DOOR = ("flux.dag", "flux.interactive")


def test_every_module_has_a_layer() -> None:
    unknown = [name for name in modules() if name != TOP and layer(name) is None]
    assert not unknown, f"Give these a layer in tests/house/layers.py and in CONTRIBUTING.md: {unknown}"


def test_every_name_in_the_table_is_a_module() -> None:
    assert [name for name in LAYER if name not in modules()] == []


def test_every_layer_is_described_to_contributors() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = [line for line in text.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert len(table) == len(LAYERS)
    for names, line in zip(LAYERS[:4], table, strict=False):
        assert not [name for name in names if f"flux.{name}" in modules() and name not in line], line


def test_a_module_imports_from_its_own_layer_or_below() -> None:
    wrong = []
    for module in modules().values():
        own = OFFERED if module.name == TOP else layer(module.name)
        for node, target in imports(module):
            other = layer(target)
            if own is None or other is None or other <= own or (module.name, target) == DOOR:
                continue
            wrong.append(f"{module.at(node)}: {module.name} (layer {own}) imports {target} (layer {other})")
    assert not wrong, "\n".join(wrong)


def test_the_door_to_interactive_stands_in_one_function() -> None:
    found = [node for node, target in imports(modules()[DOOR[0]]) if target == DOOR[1]]
    assert len(found) <= 1, [modules()[DOOR[0]].at(node) for node in found]


def test_no_module_of_flux_imports_the_package_itself() -> None:
    wrong = [m.at(node) for m in modules().values() for node, target in imports(m) if target == TOP]
    assert not wrong, f"Import from the module that defines the name: {wrong}"


def test_there_are_no_cycles() -> None:
    edges: dict[str, set[str]] = {}
    for module in modules().values():
        if module.name == TOP:
            continue
        # Names in tables (`python -m flux.running.supervisor_process`, lazily loaded names) are no import statements.
        targets = {target for node, target in imports(module) if target in modules() and hasattr(node, "names")}
        edges[module.name] = targets - ({DOOR[1]} if module.name == DOOR[0] else set())
    assert strongly_connected(edges) == []
