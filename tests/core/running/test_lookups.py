"""Where connections and variables come from, in order; and a backend that hangs holds up nobody else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from flux import config, encryption, providers, secret
from flux.connection import Connection
from flux.connection_fields import complete
from flux.errors import ConfigError, EncryptionError, FluxError, NotFound, PluginError
from flux.loop import Loop
from flux.plugins import ConnectionType, Field, Ref
from flux.plugins.catalogue import Catalogue
from flux.plugins.verdict import ProviderState, Verdict
from flux.running import lookups
from flux.running.connections import seal
from flux.running.lookups import Lookups, Places, SavedCatalogue, Stored
from flux.secret import Secret
from flux.store.connections import StoredConnection
from tests.waiting import until

MYSQL = ConnectionType(
    "mysql",
    client=Ref("MySqlClient", "x.client:MySqlClient"),
    fields=("host", "port", "login", "password", "schema", Field("token", secret=True)),
    default_port=3306,
)
CATALOGUE = Catalogue([Verdict("mysql", "flux-provider-mysql", "1", ProviderState.OK, connection_types=(MYSQL,))])


class Backend:
    """Keeps what it is given; what is callable there is called instead."""

    def __init__(
        self, connections: Mapping[str, Any] | None = None, variables: Mapping[str, Any] | None = None
    ) -> None:
        self.connections = connections or {}
        self.variables = variables or {}
        self.asked: list[str] = []

    def connection(self, conn_id: str) -> str | None:
        return self._get(self.connections, conn_id)

    def variable(self, name: str) -> str | None:
        return self._get(self.variables, name)

    def _get(self, values: Mapping[str, Any], name: str) -> str | None:
        self.asked.append(name)
        value = values.get(name)
        found: str | None = value() if callable(value) else value
        return found


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret.key"
    encryption.make(path)
    return path


@pytest.fixture
def make(key_file: Path) -> Callable[..., Places]:
    def make(environ: Mapping[str, str] | None = None, **backends: Backend) -> Places:
        return Places(environ or {}, backends, key_file, lambda: CATALOGUE)

    return make


@pytest.fixture
def in_store(key_file: Path) -> Stored:
    """The connection `shop`, and a variable, as the store has them."""
    kept = Connection("shop", "mysql", "stored", login="ann", password=Secret("geheim-stored"))
    return Stored(connection=seal(kept, lambda: encryption.read(key_file)), variable="stored")


def uri(host: str) -> str:
    return f"mysql://ann:geheim-{host}@{host}/s"


def host_and_source(places: Places, stored: Stored) -> tuple[str | None, str]:
    found = places.connection("shop", stored)
    assert found.connection.password == Secret(f"geheim-{found.connection.host}")
    return found.connection.host, found.source


def test_the_environment_wins_over_backends_in_their_order_and_these_over_the_store(
    make: Callable[..., Places], in_store: Stored
) -> None:
    environ = {"FLUX_CONN_SHOP": uri("env"), "FLUX_VAR_REGION": "env"}
    first, second = Backend(), Backend({"shop": uri("second")}, {"region": "second"})
    third = Backend({"shop": uri("third")}, {"region": "third"})
    everything = make(environ, first=first, second=second, third=third)
    assert host_and_source(everything, in_store) == ("env", "FLUX_CONN_SHOP")
    assert everything.variable("region", in_store) == "env"
    assert (first.asked, third.asked) == ([], [])
    outside = make({}, first=first, second=second, third=third)
    assert host_and_source(outside, in_store) == ("second", "secrets backend second")
    assert outside.variable("region", in_store) == "second"
    assert (first.asked, third.asked) == (["shop", "region"], [])
    assert host_and_source(make({}, first=first), in_store) == ("stored", "store")
    assert make({}, first=first).variable("region", in_store) == "stored"
    assert make().variable("region", Stored()) is None


def test_what_was_found_is_completed_by_its_type_wherever_it_came_from(
    make: Callable[..., Places], in_store: Stored
) -> None:
    backend = Backend({"shop": "mysql://h?token=t0ken-4712"})
    assert make({"FLUX_CONN_SHOP": "mysql://h"}).connection("shop", Stored()).connection.port == 3306
    assert make().connection("shop", in_store).connection.port == 3306
    found = make({}, vault=backend).connection("shop", Stored()).connection
    assert (found.port, found.extra) == (3306, {"token": Secret("t0ken-4712")})


def test_a_setting_that_the_type_does_not_have_is_refused(make: Callable[..., Places]) -> None:
    for places in (make({"FLUX_CONN_SHOP": "mysql://h?x=y"}), make({}, vault=Backend({"shop": "mysql://h?x=y"}))):
        with pytest.raises(ConfigError, match=r"'shop' sets 'x'"):
            places.connection("shop", Stored())


def test_a_type_that_nobody_offers_is_taken_as_it_is(make: Callable[..., Places], key_file: Path) -> None:
    found = make({"FLUX_CONN_SHOP": "other://h?x=y"}).connection("shop", Stored()).connection
    assert (found.type, found.port, found.extra) == ("other", None, {"x": "y"})
    unknown = Places({"FLUX_CONN_SHOP": "mysql://h?x=y"}, {}, key_file, lambda: None)
    assert unknown.connection("shop", Stored()).connection.extra == {"x": "y"}


def test_one_that_no_place_has_is_answered_with_near_ones_and_how_to_add_it(make: Callable[..., Places]) -> None:
    with pytest.raises(NotFound, match=r"'shup'.*Known: shut, shop.*flux connection add shup.*FLUX_CONN_SHUP"):
        make({"FLUX_CONN_SHOP": "mysql://h"}).connection("shup", Stored(conn_ids=("shut", "other")))


def fail() -> str:
    raise OSError("the vault is sealed for token geheim-of-vault")


@pytest.mark.parametrize(
    ("value", "words"),
    [(fail, "OSError: the vault is sealed"), (lambda: exit(3), "SystemExit: 3"), (7, "returned a int")],
)
def test_a_backend_that_fails_is_an_error_and_not_passed_over(
    make: Callable[..., Places], in_store: Stored, value: Any, words: str
) -> None:
    Secret("geheim-of-vault")
    places = make({}, vault=Backend({"shop": value}, {"region": value}), other=Backend({"shop": uri("other")}))
    for ask in (lambda: places.connection("shop", in_store), lambda: places.variable("region", in_store)):
        with pytest.raises(PluginError, match=rf"'vault'.*{words}") as caught:
            ask()
        assert "geheim-of-vault" not in str(caught.value)


def test_a_backend_that_has_nonsense_is_named(make: Callable[..., Places]) -> None:
    with pytest.raises(ConfigError, match=r"'shop' \(from secrets backend vault\)"):
        make({}, vault=Backend({"shop": "no uri with geheim"})).connection("shop", Stored())


def test_a_connection_of_a_backend_may_be_as_long_as_a_stored_ones_secrets(make: Callable[..., Places]) -> None:
    longest = uri("vault").ljust(65_536, "p")
    places = make(vault=Backend({"warehouse": longest, "huge": longest + "p"}))
    assert places.outside("warehouse") is not None
    known = len(secret.forms())
    with pytest.raises(PluginError, match=r"'vault' returned 65537 characters for connection 'huge', more than 65536"):
        places.outside("huge")
    assert len(secret.forms()) == known


def test_a_stored_connection_that_cannot_be_decrypted_is_an_error(
    make: Callable[..., Places], in_store: Stored, key_file: Path
) -> None:
    key_file.unlink()
    with pytest.raises(EncryptionError, match=r"'shop'.*does not exist"):
        make().connection("shop", in_store)


def test_the_catalogue_that_a_supervisor_saved_is_read_again_when_there_is_another_one(tmp_path: Path) -> None:
    options = config.load({}, home=tmp_path / "home")
    options.run_folder.mkdir(parents=True)
    catalogue = SavedCatalogue(options)
    assert catalogue() is None
    providers.save(CATALOGUE, options)
    first = catalogue()
    assert first is not None
    assert first.connection_type("mysql") == MYSQL
    assert catalogue() is first
    providers.save(Catalogue([]), options)
    second = catalogue()
    assert second is not None
    assert second.connection_types() == ()


# --- from the loop ---------------------------------------------------------------------------------------------------


class Asked:
    """Lookups in a loop, and what came of the questions."""

    def __init__(self, places: Places, limit_seconds: float) -> None:
        self.loop = Loop()
        self.lookups = Lookups(self.loop, places, limit_seconds=limit_seconds)
        self.answers: dict[str, Any] = {}
        #: Names in the order of their answers.
        self.told: list[str] = []

    def variable(self, name: str, stored: Stored = Stored()) -> None:  # noqa: B008
        self.lookups.variable(name, stored, *self._keep(name))

    def connection(self, conn_id: str, stored: Stored = Stored()) -> None:  # noqa: B008
        self.lookups.connection(conn_id, stored, *self._keep(conn_id))

    def _keep(self, name: str) -> tuple[Callable[[Any], object], Callable[[Exception], object]]:
        def keep(value: Any) -> None:
            self.told.append(name)
            self.answers[name] = value
            self.loop.stop()

        return keep, keep

    def until(self, count: int) -> dict[str, Any]:
        """Run the loop until there are so many answers."""
        give_up = self.loop.call_later(20, self.loop.stop)
        while len(self.answers) < count and give_up.is_pending:
            self.loop.run()
        give_up.cancel()
        return self.answers


@pytest.fixture
def hang() -> Iterator[Callable[[], str]]:
    """A function that does not return before the test's end."""
    end = threading.Event()
    yield lambda: str(end.wait(60))
    end.set()


def test_what_the_environment_has_is_answered_at_once(make: Callable[..., Places]) -> None:
    asked = Asked(make({"FLUX_CONN_SHOP": uri("env"), "FLUX_VAR_REGION": "north", "FLUX_VAR_API_URL": "there"}), 10)
    asked.connection("shop")
    asked.variable("region")
    asked.variable("api-url")
    assert (asked.answers["region"], asked.answers["api-url"]) == ("north", "there")
    expected = complete(Connection.from_uri("shop", uri("env")), MYSQL)
    assert Connection.from_message(asked.answers["shop"]) == expected


def test_the_rest_is_answered_from_a_thread(make: Callable[..., Places], in_store: Stored) -> None:
    ours = threading.get_ident()
    backend = Backend({}, {"thread": lambda: str(threading.get_ident())})
    asked = Asked(make({}, vault=backend), 10)
    asked.connection("shop", in_store)
    asked.variable("thread")
    asked.connection("none")
    answers = asked.until(3)
    assert answers["shop"]["host"] == "stored"
    assert int(answers["thread"]) != ours
    assert isinstance(answers["none"], NotFound)


def test_a_backend_that_hangs_fails_that_question_and_holds_up_no_other(
    make: Callable[..., Places], hang: Callable[[], str]
) -> None:
    backend = Backend({"shop": hang}, {"region": "north"})
    asked = Asked(make({}, first=Backend(), vault=backend), 0.2)
    asked.connection("shop")
    asked.variable("region")
    assert asked.until(1) == {"region": "north"}
    problem = asked.until(2)["shop"]
    assert isinstance(problem, PluginError)
    assert "'vault' did not answer for connection 'shop' within 0.2 s" in str(problem)


def test_when_every_thread_hangs_questions_fail_in_time_and_others_need_none(
    make: Callable[..., Places], hang: Callable[[], str], in_store: Stored
) -> None:
    backend = Backend({}, {f"v{number}": hang for number in range(lookups.THREADS)})
    asked = Asked(make({"FLUX_VAR_REGION": "north"}, vault=backend), 0.2)
    for name in backend.variables:
        asked.variable(name)
    asked.connection("shop", in_store)
    asked.variable("region")
    assert asked.answers == {"region": "north"}
    answers = asked.until(lookups.THREADS + 2)
    assert isinstance(answers["shop"], FluxError)
    assert "no answer yet" in str(answers["shop"])
    assert all(isinstance(answers[name], PluginError) for name in backend.variables)


def test_questions_beyond_the_threads_are_answered_when_one_is_free(make: Callable[..., Places]) -> None:
    names = [f"v{number}" for number in range(3 * lookups.THREADS)]
    asked = Asked(make({}, vault=Backend({}, {name: name for name in names})), 10)
    for name in names:
        asked.variable(name)
    assert asked.until(len(names)) == {name: name for name in names}


def test_an_answer_that_comes_too_late_is_dropped(make: Callable[..., Places]) -> None:
    go, came = threading.Event(), threading.Event()

    def late() -> str:
        go.wait(20)
        came.set()
        return "late"

    asked = Asked(make({}, vault=Backend({}, {"slow": late, "next": "x"})), 0.1)
    asked.variable("slow")
    problem = asked.until(1)["slow"]
    go.set()
    assert came.wait(20)
    until(lambda: not [each for each in threading.enumerate() if each.name == "lookup"])
    asked.variable("next")
    assert asked.until(2) == {"slow": problem, "next": "x"}
    assert asked.told == ["slow", "next"]


def test_a_stored_record_without_secrets_needs_no_key_file(make: Callable[..., Places], tmp_path: Path) -> None:
    places = Places({}, {}, tmp_path / "none.key", lambda: None)
    found = places.connection("open", Stored(StoredConnection("open", "http", "h", None, None, None)))
    assert found.connection.host == "h"
