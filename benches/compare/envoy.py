"""Envoy: as an edge alone, and as two Envoys with a reverse tunnel over TLS that the inner one dials."""

import json

from candidate import Candidate
from machine import free_port, listens, wait_until
from pki import HOST

TYPE = "type.googleapis.com/envoy"
NODE = "point"
TLS13 = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}


def typed(kind, **fields):
    return {"@type": f"{TYPE}.{kind}", **fields}


def extension(name, kind, **fields):
    return {"name": name, "typed_config": typed(kind, **fields)}


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def http_filter(cluster, **fields):
    """The connection manager that sends everything to one cluster."""
    route = {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}
    return extension(
        "envoy.filters.network.http_connection_manager",
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="client",
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        http_filters=[extension("envoy.filters.http.router", "extensions.filters.http.router.v3.Router")],
        **fields,
    )


def cluster(name, port, **fields):
    endpoint = {"lb_endpoints": [{"endpoint": {"address": address(port)}}]}
    return {
        "name": name,
        "type": "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": [endpoint]},
        **fields,
    }


class EnvoyEdge(Candidate):
    """One Envoy in front of the backend."""

    name, title, kind = "envoy-edge", "Envoy edge", "edge"
    post_quantum = True

    def launch(self):
        self.run("edge", self.client_listeners("backend"), [cluster("backend", self.world.backend.port)])

    def client_listeners(self, next_cluster):
        """The listener of clients, and another for those of the RSA set: telling them by server name would cost an inspection."""
        self.rsa_port = free_port()
        return [
            self.tls_listener(kind, port, http_filter(next_cluster), self.strict)
            for kind, port in (("ec", self.port), ("rsa", self.rsa_port))
        ]

    def tls_context(self, kind, certificate):
        pair = self.world.pki.pair(f"{kind}-{certificate}")
        files = [{"filename": path} for path in pair]
        return {
            "tls_params": {**TLS13, "ecdh_curves": ["X25519MLKEM768", "X25519"]},
            "tls_certificates": [{"certificate_chain": files[0], "private_key": files[1]}],
            "validation_context": {"trusted_ca": {"filename": self.world.pki.path("roots.pem")}},
        }

    def tls_listener(self, kind, port, network_filter, require=True):
        tls = extension(
            "envoy.transport_sockets.tls",
            "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            common_tls_context=self.tls_context(kind, "server"),
            require_client_certificate=require,
        )
        chain = {"filters": [network_filter], "transport_socket": tls}
        return {"name": f"tls-{port}", "address": address(port), "filter_chains": [chain]}

    def run(self, part, listeners, clusters, bootstrap=()):
        config = {
            "node": {"id": NODE, "cluster": "points"},
            "static_resources": {"listeners": listeners, "clusters": clusters},
            "bootstrap_extensions": list(bootstrap),
        }
        path = self.write(f"{part}.json", json.dumps(config, indent=1))
        options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
        self.part(part, [self.world.settings.envoy, "-c", path, *options])


class EnvoyTunnel(EnvoyEdge):
    """Two Envoys; the one in front of the backend dials the tunnel."""

    name, title, kind = "envoy-tunnel", "Envoy reverse tunnel", "chain"

    def launch(self):
        tunnel = free_port()
        self.responder(tunnel)
        # An initiator that is refused waits ten seconds before it dials again.
        wait_until(lambda: listens(tunnel), "Envoy's tunnel port")
        self.initiator(tunnel)

    def responder(self, tunnel):
        accept = extension(
            "envoy.filters.network.reverse_tunnel",
            "extensions.filters.network.reverse_tunnel.v3.ReverseTunnel",
            ping_interval="5s",
        )
        through = {
            "name": "tunnel",
            "connect_timeout": "5s",
            "lb_policy": "CLUSTER_PROVIDED",
            "cluster_type": extension(
                "envoy.clusters.reverse_connection",
                "extensions.clusters.reverse_connection.v3.ReverseConnectionClusterConfig",
                cleanup_interval="60s",
                host_id_format=NODE,
            ),
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
                    "extensions.upstreams.http.v3.HttpProtocolOptions",
                    explicit_http_config={"http2_protocol_options": {}},
                )
            },
        }
        listeners = [*self.client_listeners("tunnel"), self.tls_listener("ec", tunnel, accept)]
        self.run("edge", listeners, [through], [self.socket_interface("upstream", "Upstream")])

    def initiator(self, tunnel):
        dial = {
            "name": "dial",
            "address": {
                "socket_address": {
                    "address": f"rc://{NODE}:points:bench@gateway:1",
                    "port_value": 0,
                    "resolver_name": "envoy.resolvers.reverse_connection",
                }
            },
            "filter_chains": [{"filters": [http_filter("backend", codec_type="HTTP2")]}],
        }
        tls = extension(
            "envoy.transport_sockets.tls",
            "extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            common_tls_context=self.tls_context("ec", "point"),
            sni=HOST,
        )
        clusters = [
            cluster("gateway", tunnel, connect_timeout="5s", transport_socket=tls),
            cluster("backend", self.world.backend.port),
        ]
        self.run("point", [dial], clusters, [self.socket_interface("downstream", "Downstream")])

    @staticmethod
    def socket_interface(way, name):
        return extension(
            f"envoy.bootstrap.reverse_tunnel.{way}_socket_interface",
            f"extensions.bootstrap.reverse_tunnel.{way}_socket_interface.v3.{name}ReverseConnectionSocketInterface",
            stat_prefix=f"{way}_reverse_connection",
        )
