"""The chains of this repository: OpenCMG as it is shipped, and two bare chains of the same crates."""

import os
import signal
from dataclasses import dataclass
from urllib.request import urlopen

import pki
from backend import ROLE
from candidate import Candidate
from machine import free_port, wait_until

GATEWAY = """\
[gateway]
store = "file:service"
listen = ["127.0.0.1:{port}"]
health = "127.0.0.1:{health}"
admin = "127.0.0.1:{admin}"
drain-deadline = "1s"
[proxy]
client-rate = 1000000
[log]
level = "warn"
"""
SERVICE = """\
name = "{host}"
[[certificate]]
file = "{pki}/ec-server.pem"
key = "{pki}/ec-server.key"
[[certificate]]
file = "{pki}/rsa-server.pem"
key = "{pki}/rsa-server.key"
[trust]
anchors = ["{pki}/ec-root.pem", "{pki}/rsa-root.pem"]
intermediates = ["{pki}/ec-intermediate.pem", "{pki}/rsa-intermediate.pem"]
[trust.revocation]
check = false # as the peers are set up
[connection-points]
ca = ["{pki}/ec-root.pem"]
{points}{roles}"""
ROLE_THERE = """\
[[role]]
id = "{id}"
kind = "management-point"
client-certificate = "leaf"
rate-per-address = {rate}
"""
ROLE_HERE = """\
[[role]]
id = "{id}"
url = "http://127.0.0.1:{port}"
"""
ENDPOINT = """\
[[role.endpoint]]
name = "{name}"
methods = ["GET", "HEAD", "POST"]
long-poll = {poll}
"""
POINT = """\
[connection-point]
certificate = "{certificate}"
key = "{key}"
tunnels = {tunnels}
drain-deadline = "1s"
[[gateway]]
name = "{host}"
addresses = ["127.0.0.1:{port}"]
ca = ["{pki}/ec-root.pem"]
{roles}[log]
level = "warn"
"""
WAIT = "72057594037927940"


@dataclass
class Shape:
    """What the scale curves vary."""

    tunnels: int = 2
    points: int = 1
    # Published endpoints: those of one role, and of as many more roles as it takes.
    endpoints: int = 1
    endpoints_of_a_role: int = 100
    # The port of a backend that never answers, published as a long poll.
    wait: int = 0


class OpenCmg(Candidate):
    """A gateway and a connection point, everything switched on as shipped, no access log."""

    name, title = "opencmg", "OpenCMG"
    post_quantum = True

    def __init__(self, world, binary=None, name=None, shape=None):
        super().__init__(world)
        self.binary = binary or world.settings.opencmg
        self.name = name or self.name
        self.shape = shape or Shape()
        self.reloads = 0

    def launch(self):
        health, self.admin = free_port(), free_port()
        folder = self.world.folder_of(self.name)
        os.makedirs(f"{folder}/service", exist_ok=True)
        self.write("gateway.toml", GATEWAY.format(port=self.port, health=health, admin=self.admin))
        self.write_service()
        self.part("edge", [self.binary, "gateway", "--config", f"{folder}/gateway.toml"], workers(self.world))
        for number in range(self.shape.points):
            self.launch_point(f"point-{number}" if number else "point", number)
        wanted = self.shape.points * self.shape.tunnels
        wait_until(lambda: self.tunnels() == wanted, f"{wanted} tunnels of {self.name}", 30)

    def tunnels(self):
        """How many tunnels the gateway counts."""
        return self.metric("opencmg_tunnels{")

    def metric(self, series):
        """The sum of the gateway's metrics that begin so."""
        try:
            with urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return 0
        return sum(int(line.rpartition(" ")[2]) for line in lines if line.startswith(series))

    def launch_point(self, name, number):
        certificate, key = self.world.pki.point(number)
        text = POINT.format(
            pki=self.world.pki.folder, certificate=certificate, key=key, tunnels=self.shape.tunnels,
            host=pki.HOST, port=self.port, roles=self.roles(ROLE_HERE, ENDPOINT),
        )  # fmt: skip
        config = self.write(f"{name}.toml", text)
        self.part(name, [self.binary, "connection-point", "--config", config], workers(self.world))

    def write_service(self):
        scheme = "certificate" if self.strict else "public"
        roles = self.roles(ROLE_THERE, f'{ENDPOINT}scheme = "{scheme}"\n')
        names = [pki.point_name(number) for number in range(self.shape.points)]
        points = "".join(f'[[connection-point]]\nname = "{name}"\n' for name in names)
        text = SERVICE.format(host=pki.HOST, pki=self.world.pki.folder, points=points, roles=roles)
        self.write("service/service.toml", text)

    def roles(self, role, endpoint):
        """The tables of the roles, in the words of one of the two files."""
        shape, out = self.shape, []
        # A rate that differs is a change of the definition that touches no request here.
        fields = {"rate": 200 + self.reloads, "port": self.world.backend.port}
        for first in range(0, shape.endpoints, shape.endpoints_of_a_role):
            count = min(shape.endpoints_of_a_role, shape.endpoints - first)
            # Longer names are looked at first, so that the one that is asked for comes last.
            names = ["files", *(f"endpoint-{number}" for number in range(1, count))]
            number = first // shape.endpoints_of_a_role
            id = int(ROLE) if number == 0 else int(WAIT) + number
            out.append(role.format(id=id, **fields))
            out += [endpoint.format(name=name, poll="false") for name in names]
        if shape.wait:
            out.append(role.format(id=WAIT, **{**fields, "port": shape.wait}))
            # More polls than a backend is given by default.
            out.append("capacity = 16384\n" if role is ROLE_HERE else "")
            out.append(endpoint.format(name="wait", poll="true"))
        return "".join(out)

    def reload(self):
        self.reloads += 1
        self.write_service()
        applied = 'opencmg_reloads_total{outcome="applied"}'
        before = self.metric(applied)
        self.parts["edge"].send_signal(signal.SIGHUP)
        wait_until(lambda: self.metric(applied) > before, "the changed service definition")


class Bare(Candidate):
    """The same crates, windows and tunnels without a feature: hyper on both sides, used as its documentation does."""

    name, title = "bare", "bare chain"
    post_quantum = True
    tunnels = 2
    shape = ()

    def launch(self):
        tunnel = free_port()
        binary, env = self.world.settings.bare, workers(self.world)
        folder, tunnel, backend = self.world.pki.folder, f"127.0.0.1:{tunnel}", f"127.0.0.1:{self.world.backend.port}"
        self.part("edge", [binary, *self.shape, "edge", folder, f"127.0.0.1:{self.port}", tunnel], env)
        self.part("point", [binary, *self.shape, "point", folder, tunnel, backend, self.tunnels], env)


class Stripped(Bare):
    """The same without a feature in the shape of OpenCMG."""

    name, title = "stripped", "stripped chain"
    shape = ("stripped",)


def workers(world):
    """How the worker threads are set; one a CPU if they are not."""
    count = world.settings.workers
    return {"TOKIO_WORKER_THREADS": str(count)} if count else {}
