"""What a connection type makes of a connection."""

from __future__ import annotations

import pytest

from flux.connection import Connection
from flux.connection_fields import complete, type_of, with_secrets
from flux.errors import ConfigError, PluginError
from flux.plugins import ConnectionType, Field, Ref
from flux.plugins.catalogue import Catalogue
from flux.plugins.verdict import ProviderState, Verdict
from flux.secret import Secret

ACME = ConnectionType(
    "acme",
    client=Ref("AcmeClient", "acme.client:AcmeClient"),
    fields=(
        "host", "login", "password",
        Field("token", secret=True), Field("region", default="eu"), Field("realm", required=True),
    ),
    default_port=7000,
)  # fmt: skip


def uri(text: str) -> Connection:
    return Connection.from_uri("shop", text)


def test_defaults_are_applied_and_secret_fields_are_secret() -> None:
    found = complete(uri("acme://ann:pw@h?token=t0ken-of-acme&realm=r"), ACME)
    assert (found.port, dict(found.extra)) == (7000, {"token": Secret("t0ken-of-acme"), "region": "eu", "realm": "r"})
    assert "t0ken-of-acme" not in repr(found)


def test_what_is_given_wins_over_defaults() -> None:
    found = complete(uri("acme://h:7001?region=us&realm=r"), ACME)
    assert (found.port, found.extra["region"]) == (7001, "us")


def test_a_field_without_value_and_default_is_not_there() -> None:
    assert "token" not in complete(uri("acme://h?realm=r"), ACME).extra


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("acme://h?realm=r&local_infile=geheim", "local_infile"),
        ("acme://h/geheim?realm=r", "schema"),
        ("acme://h?realm=r&host=geheim", "host"),
    ],
)
def test_a_setting_that_the_type_does_not_declare_is_refused_naming_those_it_does(text: str, name: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"'shop' sets '{name}'.*host, login, password, token, region, realm"
    ) as caught:
        complete(uri(text), ACME)
    assert "geheim" not in str(caught.value)


def test_a_required_field_that_is_missing_or_empty_is_refused() -> None:
    for text in ("acme://h", "acme://h?realm="):
        with pytest.raises(ConfigError, match="lacks 'realm'"):
            complete(uri(text), ACME)


def test_a_completed_connection_travels_as_a_message_with_its_secrets() -> None:
    found = complete(uri("acme://ann:pw@h?token=t0ken-of-acme&realm=r"), ACME)
    assert Connection.from_message(found.to_message()) == found
    assert Connection.from_uri("shop", found.to_uri()).extra["token"] == "t0ken-of-acme"


def test_secrets_are_put_in_by_name() -> None:
    found = with_secrets(uri("acme://h?realm=r"), ACME, "geheim-4718", {"token": "t0ken-of-acme"})
    assert (found.password, found.extra["token"]) == (Secret("geheim-4718"), Secret("t0ken-of-acme"))
    with pytest.raises(ConfigError, match=r"no secret field 'region'.*token"):
        with_secrets(found, ACME, None, {"region": "x"})


def offering(name: str, *kinds: ConnectionType) -> Verdict:
    return Verdict(name, f"flux-provider-{name}", "1", ProviderState.OK, connection_types=kinds)


def test_a_type_is_found_by_name_and_one_that_nobody_offers_is_none() -> None:
    catalogue = Catalogue([offering("acme", ACME)])
    assert type_of(catalogue, "acme") is ACME
    assert type_of(catalogue, "other") is None
    assert type_of(None, "acme") is None


def test_a_type_that_two_offer_is_an_error() -> None:
    with pytest.raises(PluginError, match="both offer"):
        type_of(Catalogue([offering("acme", ACME), offering("copy", ACME)]), "acme")
