"""Lets type checkers hold the manifest to the hooks; there is nothing to run here."""

from __future__ import annotations

import flux_provider_mysql.provider as manifest
from flux.plugins import protocols

_manifest: protocols.Manifest = manifest
_operators: protocols.Operators = manifest
_sensors: protocols.Sensors = manifest
_connection_types: protocols.ConnectionTypes = manifest
