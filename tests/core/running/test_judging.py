"""Judging beside the loop, and what the listener process is told to load."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flux import providers
from flux.plugins.catalogue import Catalogue
from flux.plugins.verdict import ProviderState, Verdict
from flux.running.judging import Judging, listening, to_load
from tests.parts import Parts

LISTENS = """
from flux.plugins import hookimpl

@hookimpl
def flux_component_started(component): ...
"""


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    parts = Parts(tmp_path / "home")
    yield parts
    parts.close()


def verdict(name: str, *hooks: str, state: ProviderState = ProviderState.OK, version: str | None = "1.2") -> Verdict:
    return Verdict(name, f"flux-provider-{name}" if version else None, version, state, module=f"{name}.m", hooks=hooks)


def test_those_that_listen_are_good_and_have_one_of_the_events() -> None:
    catalogue = Catalogue(
        [
            verdict("acme", "flux_operators", "flux_task_state_changed"),
            verdict("bad", "flux_task_state_changed", state=ProviderState.BROKEN),
            verdict("hive", "flux_operators", "flux_task_policy"),
            verdict("late", "flux_component_stopping"),
        ]
    )
    assert [one.name for one in listening(catalogue)] == ["acme", "late"]


def test_what_is_to_be_loaded_says_where_it_is_and_which_code(parts: Parts) -> None:
    file = parts.config.dags_folder / "flux_provider.py"
    installed = verdict("acme", "flux_task_state_changed")
    local = verdict("local", "flux_task_state_changed", version=None)

    def loads() -> list[dict[str, object]]:
        return list(to_load(Catalogue([installed, local]), parts.config))

    folder = str(parts.config.dags_folder)
    assert loads() == [
        {"name": "acme", "module": "acme.m", "folder": None, "stamp": "1.2"},
        {"name": "local", "module": "local.m", "folder": folder, "stamp": ""},
    ]
    stamps = set()
    for text in ("x = 1", "x = 2"):
        file.write_text(text)
        stamps.add(loads()[1]["stamp"])
    assert len(stamps) == 2


@pytest.mark.slow
def test_all_are_judged_as_they_are_now_and_the_outcome_is_kept(parts: Parts) -> None:
    judged: list[Catalogue] = []
    judging = Judging(parts.config, parts.loop, os.environ, judged.append, lambda error: pytest.fail(str(error)))
    (parts.config.dags_folder / "flux_provider.py").write_text(LISTENS)
    judging.judge()
    parts.until(lambda: judged, 30)
    assert judged[0].provider("local").hooks == ("flux_component_started",)
    saved = providers.saved(parts.config)
    assert saved is not None
    assert saved.verdicts == judged[0].verdicts


@pytest.mark.slow
def test_what_changes_meanwhile_is_judged_once_more_and_only_the_last_is_told(parts: Parts) -> None:
    judged: list[Catalogue] = []
    judging = Judging(parts.config, parts.loop, os.environ, judged.append, lambda error: pytest.fail(str(error)))
    judging.judge()
    (parts.config.dags_folder / "flux_provider.py").write_text(LISTENS)
    for _ in range(3):
        judging.judge()
    parts.until(lambda: judged, 30)
    assert "local" in {one.name for one in judged[0].verdicts}
    done: list[object] = []
    parts.loop.call_later(0, lambda: done.append(1))
    parts.until(lambda: done)
    assert len(judged) == 1


def test_what_keeps_from_judging_is_told_and_the_next_time_it_is_tried_again(parts: Parts) -> None:
    judged: list[Catalogue] = []
    failed: list[Exception] = []
    judging = Judging(parts.config, parts.loop, os.environ, judged.append, failed.append)
    parts.config.run_folder.rename(parts.config.home / "away")
    judging.judge()
    parts.until(lambda: failed)
    assert isinstance(failed[0], FileNotFoundError)
    (parts.config.home / "away").rename(parts.config.run_folder)
    judging.judge()
    parts.until(lambda: judged)
