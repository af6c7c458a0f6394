"""The two chains of this repository: OpenCMG as it is shipped, and the bare chain of the same crates."""

import os
import signal

import pki
from backend import ROLE
from candidate import Candidate
from machine import free_port

GATEWAY = """\
[gateway]
store = "file:service"
listen = ["127.0.0.1:{port}"]
health = "127.0.0.1:{health}"
admin = "127.0.0.1:{admin}"
drain-deadline = "1s"
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
[connection-points]
ca = ["{pki}/ec-root.pem"]
{points}{roles}"""
ENDPOINT = """\
[[role.endpoint]]
name = "files"
methods = ["GET", "HEAD", "POST"]
scheme = "{scheme}"
"""
POINT = """\
[connection-point]
certificate = "{pki}/{certificate}.pem"
key = "{pki}/{certificate}.key"
tunnels = {tunnels}
drain-deadline = "1s"
[[gateway]]
name = "{host}"
addresses = ["127.0.0.1:{port}"]
ca = ["{pki}/ec-root.pem"]
{roles}[log]
level = "warn"
"""


class OpenCmg(Candidate):
    """A gateway and a connection point, everything switched on as shipped, no access log."""

    name, title = "opencmg", "OpenCMG"
    post_quantum = True
    tunnels = 2

    def __init__(self, world, binary=None, name=None):
        super().__init__(world)
        self.binary = binary or world.settings.opencmg
        self.name = name or self.name
        self.reloads = 0

    def env(self):
        workers = self.world.settings.workers
        return {"TOKIO_WORKER_THREADS": str(workers)} if workers else {}

    def roles(self):
        """The ids of the roles of the service, each with the port of its backend."""
        return {ROLE: self.world.backend.port}

    def launch(self):
        self.health, self.admin = free_port(), free_port()
        folder = self.world.folder_of(self.name)
        os.makedirs(f"{folder}/service", exist_ok=True)
        self.write("gateway.toml", GATEWAY.format(port=self.port, health=self.health, admin=self.admin))
        self.write_service()
        self.part("edge", [self.binary, "gateway", "--config", f"{folder}/gateway.toml"], self.env())
        self.launch_point("point", "ec-point")

    def launch_point(self, name, certificate):
        role = '[[role]]\nid = "{id}"\nurl = "http://127.0.0.1:{port}"\n'
        # The connection point knows methods, the gateway judges who may.
        endpoint = '[[role.endpoint]]\nname = "files"\nmethods = ["GET", "HEAD", "POST"]\n'
        roles = "".join(role.format(id=id, port=port) + endpoint for id, port in self.roles().items())
        text = POINT.format(
            pki=self.world.pki.folder, certificate=certificate, tunnels=self.tunnels,
            host=pki.HOST, port=self.port, roles=roles,
        )  # fmt: skip
        config = self.write(f"{name}.toml", text)
        self.part(name, [self.binary, "connection-point", "--config", config], self.env())

    def write_service(self):
        scheme = "certificate" if self.strict else "public"
        role = '[[role]]\nid = "{id}"\nkind = "management-point"\nclient-certificate = "leaf"\nrate-per-address = {rate}\n'
        # A rate that differs is a change of the definition that touches no request here.
        roles = [role.format(id=id, rate=200 + self.reloads) + ENDPOINT.format(scheme=scheme) for id in self.roles()]
        points = "".join(f'[[connection-point]]\nname = "{name}"\n' for name in self.point_names())
        text = SERVICE.format(host=pki.HOST, pki=self.world.pki.folder, points=points, roles="".join(roles))
        self.write("service/service.toml", text)

    def point_names(self):
        return [pki.POINT]

    def reload(self):
        self.reloads += 1
        self.write_service()
        self.parts["edge"].send_signal(signal.SIGHUP)


class Bare(Candidate):
    """The same crates, windows and tunnels without a feature."""

    name, title = "bare", "bare chain"
    post_quantum = True
    tunnels = 2

    def launch(self):
        tunnel = free_port()
        common = ["--pki", self.world.pki.folder, "--tunnel", f"127.0.0.1:{tunnel}"]
        workers = self.world.settings.workers
        env = {"TOKIO_WORKER_THREADS": str(workers)} if workers else {}
        binary = self.world.settings.bare
        self.part("edge", [binary, "edge", "--listen", f"127.0.0.1:{self.port}", *common], env)
        backend = f"127.0.0.1:{self.world.backend.port}"
        point = [binary, "point", "--backend", backend, "--tunnels", self.tunnels, *common]
        self.part("point", point, env)
