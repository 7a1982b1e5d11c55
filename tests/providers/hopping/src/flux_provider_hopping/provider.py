"""What the provider offers."""

from __future__ import annotations

from flux.plugins import Ref, hookimpl

FLUX_API = ">=1.0,<2"


@hookimpl
def flux_executors() -> list[Ref]:
    return [Ref("hopping", "flux_provider_hopping.executor:HoppingExecutor", summary="Attempts by way of `hop`.")]
