"""Plays the client library of an outside system: one JSON line each way over TCP."""

import json
import socket


class Session:
    def __init__(self, host, port, password, timeout=5):
        self.line = socket.create_connection((host, port), timeout).makefile("rwb")
        self.ask(login=password)

    def ask(self, **question):
        self.line.write(json.dumps(question).encode() + b"\n")
        self.line.flush()
        answer = json.loads(self.line.readline())
        if "error" in answer:
            raise PermissionError(answer["error"])
        return answer["value"]

    def close(self):
        self.line.close()
