"""What the author of the provider acme has written to test it."""

import json
import socketserver
import threading

import pytest
from flux_provider_acme.executors import AcmeExecutor
from flux_provider_acme.macros import latest
from flux_provider_acme.operators import AcmeLoadOperator
from flux_provider_acme.sensors import AcmeTableSensor

from flux import testing


class Acme(socketserver.ThreadingTCPServer):
    """A server of Acme, and the world around a task."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Talk)
        self.tables, self.jobs, self.stopped = {}, {}, []
        port = self.server_address[1]
        self.connections = {"acme_default": f"acme://:the-password@127.0.0.1:{port}"}

    def snapshot(self):
        return dict(self.tables)

    def running(self):
        return [job for job, ended in self.jobs.items() if not ended.is_set()]

    def make_true(self):
        self.tables["t"] = 1

    def answer(self, question):
        verb, name = next(iter(question.items()))
        if verb == "version":
            return "Acme 1.2"
        if verb == "count":
            return self.tables.get(name, 0)
        if verb == "start":
            self.jobs[name] = threading.Event()
        if verb == "wait":
            self.jobs[name].wait()
        if verb == "stop":
            self.jobs[name].set()
        if verb == "replace":
            self.tables[name] = question["rows"]
        if verb == "add":
            self.tables[name] = self.tables.get(name, 0) + question["rows"]
        return self.tables.get(name, 0)


class Talk(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            question = json.loads(line)
            if question.get("login", "the-password") != "the-password":
                answer = {"error": "no such password"}
            elif "login" in question:
                answer = {"value": "welcome"}
            else:
                answer = {"value": self.server.answer(question)}
            self.wfile.write(json.dumps(answer).encode() + b"\n")


@pytest.fixture
def world():
    with Acme() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        for job in server.jobs.values():
            job.set()
        server.shutdown()
        thread.join()


LIMIT = 5


class TestPackage(testing.ProviderConformance):
    provider, limit_seconds = "acme", LIMIT


class TestLoad(testing.OperatorConformance):
    operator, arguments, library = AcmeLoadOperator, {"table": "t"}, "acmelib"
    limit_seconds = LIMIT
    long_running, long_arguments = True, {"job": "j"}


class TestWait(testing.SensorConformance):
    sensor, arguments, library = AcmeTableSensor, {"table": "t"}, "acmelib"
    poke_seconds, limit_seconds = 2, LIMIT


class TestWhere(testing.ExecutorConformance):
    executor, settle_seconds, limit_seconds = AcmeExecutor, 0.3, LIMIT
    call_seconds = 1


class TestConn(testing.ConnectionConformance):
    connection_type, library, limit_seconds = "acme", "acmelib", LIMIT


class TestMacro(testing.MacroConformance):
    macro, provider, cases = staticmethod(latest), "acme", {("b", "a"): "b"}
