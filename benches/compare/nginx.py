"""nginx: as an edge alone, and as an edge in front of a second nginx over TLS (our hops and our crypto, no reverse dial)."""

import signal

from backend import nginx_user, temp_paths
from candidate import Candidate
from machine import free_port
from pki import HOST, RSA_HOST

CONFIG = """\
{user}
worker_processes 1;
worker_rlimit_nofile 20000;
pid {folder}/{name}.pid;
error_log {folder}/{name}.error.log error;
events {{ worker_connections 12000; }}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_timeout 600;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    {temp}
    ssl_protocols TLSv1.3;
    ssl_ecdh_curve X25519;
    ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
    ssl_session_cache shared:tls:20m;
    ssl_client_certificate {pki}/roots.pem;
    ssl_verify_depth 2;
    upstream next {{ server 127.0.0.1:{next}; keepalive 256; keepalive_requests 1000000000; }}
{servers}}}
"""
SERVER = """\
    server {{
        listen 127.0.0.1:{port} ssl backlog=4096;
        server_name {host};
        ssl_verify_client {verify};
        ssl_certificate {pki}/{kind}-server.pem;
        ssl_certificate_key {pki}/{kind}-server.key;
        location / {{
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_request_buffering off;
            {proxy}
        }}
    }}
"""
TLS_HOP = """proxy_pass https://next;
            proxy_ssl_protocols TLSv1.3;
            proxy_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
            proxy_ssl_certificate {pki}/ec-point.pem;
            proxy_ssl_certificate_key {pki}/ec-point.key;
            proxy_ssl_trusted_certificate {pki}/roots.pem;
            proxy_ssl_verify on;
            proxy_ssl_verify_depth 2;
            proxy_ssl_name {host};"""


class NginxEdge(Candidate):
    """One nginx in front of the backend."""

    name, title, kind = "nginx-edge", "nginx edge", "edge"

    def launch(self):
        self.server("edge", self.port, self.world.backend.port, "proxy_pass http://next;")

    def server(self, part, port, next_port, proxy):
        """Starts one nginx that serves `port` and forwards to `next_port`."""
        folder, certificates = self.world.folder_of(self.name), self.world.pki.folder
        verify = "on" if self.strict else "optional"
        servers = "".join(
            SERVER.format(port=port, host=host, kind=kind, proxy=proxy, pki=certificates, verify=verify)
            for kind, host in (("ec", HOST), ("rsa", RSA_HOST))
        ).replace(" backlog=4096", "", 1)
        text = CONFIG.format(
            folder=folder, name=part, pki=certificates, next=next_port, servers=servers,
            user=nginx_user(), temp=temp_paths(f"{folder}/{part}"),
        )  # fmt: skip
        self.world.folder_of(f"{self.name}/{part}")
        config = self.write(f"{part}.conf", text)
        error_log = f"{folder}/{part}.error.log"
        self.part(part, ["nginx", "-p", folder, "-c", config, "-e", error_log, "-g", "daemon off;"])

    def reload(self):
        for part in self.parts.values():
            part.send_signal(signal.SIGHUP)


class NginxTwoHop(NginxEdge):
    """An nginx at the edge, TLS, and a second nginx in front of the backend."""

    name, title, kind = "nginx-two-hop", "nginx two-hop", "chain"

    def launch(self):
        hop = free_port()
        self.server("point", hop, self.world.backend.port, "proxy_pass http://next;")
        tls = TLS_HOP.format(pki=self.world.pki.folder, host=HOST)
        self.server("edge", self.port, hop, tls)
