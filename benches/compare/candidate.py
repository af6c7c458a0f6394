"""What all candidates have in common: parts (processes) that are started, timed and stopped."""

import http.client
import os
import socket
import ssl

import pki
from backend import OPEN_PATH, PATH
from machine import cpu_seconds, free_port, rss_kib, wait_until


class World:
    """What a run has for its candidates."""

    def __init__(self, processes, certificates, backend, folder, settings):
        self.processes = processes
        self.pki = certificates
        self.backend = backend
        self.folder = folder
        self.settings = settings

    def folder_of(self, name):
        folder = os.path.join(self.folder, name)
        os.makedirs(folder, exist_ok=True)
        return folder


class Candidate:
    """One chain from the edge to the backend. A subclass sets `name`, `title`, `kind` and starts its parts."""

    name = title = ""
    # "chain" has a second hop over TLS, "edge" has none.
    kind = "chain"
    # Whether it agrees on X25519MLKEM768.
    post_quantum = False
    # Whether clients are told from each other by certificate and refused without one.
    strict = True

    def __init__(self, world):
        self.world = world
        self.parts = {}
        self.port = 0

    def start(self):
        """Starts every part and waits for the first answer that has come all the way."""
        self.port = free_port()
        self.launch()
        wait_until(self._answers, f"the first answer of {self.name}", 20)

    def launch(self):
        raise NotImplementedError

    def reload(self):
        """Takes over a changed configuration without a restart."""
        raise NotImplementedError

    def can_reload(self):
        return type(self).reload is not Candidate.reload

    def part(self, name, command, env=None):
        """Starts one process as a part that is counted."""
        cpus = self.world.settings.cpus
        self.parts[name] = self.world.processes.start(f"{self.name}-{name}", command, env, cpus)

    def write(self, name, text):
        path = os.path.join(self.world.folder_of(self.name), name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def path(self, name):
        """Where a file of the backend is reached."""
        return f"{PATH if self.strict else OPEN_PATH}/files/{name}"

    def cpu(self):
        """CPU seconds of each part so far."""
        return {name: cpu_seconds(part.pid) for name, part in self.parts.items()}

    def rss(self):
        """Resident KiB of the edge."""
        return rss_kib(self.parts["edge"].pid)

    def stop(self):
        for part in reversed(list(self.parts.values())):
            self.world.processes.stop(part)
        self.parts = {}

    def _answers(self):
        self.world.processes.check()
        try:
            return self.ask("1k") == 200
        except (OSError, http.client.HTTPException):
            return False

    def ask(self, name):
        """The status of one request with the client's certificate."""
        context = ssl.create_default_context(cafile=self.world.pki.path("roots.pem"))
        context.load_cert_chain(*self.world.pki.pair("ec-client"))
        with socket.create_connection(("127.0.0.1", self.port), 5) as tcp:
            with context.wrap_socket(tcp, server_hostname=pki.HOST) as tls:
                conn = http.client.HTTPConnection(pki.HOST)
                conn.sock = tls
                conn.request("GET", self.path(name), headers={"Host": pki.HOST})
                return conn.getresponse().status
