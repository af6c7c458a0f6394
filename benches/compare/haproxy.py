"""HAProxy as an edge in front of a second HAProxy over TLS: Debian's has no reverse HTTP."""

import signal

from candidate import Candidate
from machine import free_port
from pki import HOST

# It takes two descriptors for each of its connections, and refuses to start where the limit is lower.
CONFIG = """\
global
    nbthread 1
    maxconn 4000
    ssl-default-bind-options ssl-min-ver TLSv1.3
    ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
    ssl-default-bind-curves X25519
    ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256
defaults
    mode http
    maxconn 4000
    timeout connect 5s
    timeout client 600s
    timeout server 600s
    timeout http-keep-alive 600s
    http-reuse always
frontend client
    bind 127.0.0.1:{port} backlog 4096 ssl crt {pki}/ec-server.both.pem crt {pki}/rsa-server.both.pem ca-file {pki}/roots.pem verify {verify}
    default_backend next
backend next
    server next 127.0.0.1:{next} pool-max-conn 256 {tls}
"""
TLS_HOP = "ssl verify required ca-file {pki}/roots.pem crt {pki}/ec-point.both.pem sni str({host}) verifyhost {host}"


class Haproxy(Candidate):
    """Two HAProxy processes, one thread each."""

    name, title = "haproxy-two-hop", "HAProxy two-hop"

    def launch(self):
        hop, folder = free_port(), self.world.pki.folder
        self.server("point", hop, self.world.backend.port, "")
        self.server("edge", self.port, hop, TLS_HOP.format(pki=folder, host=HOST))

    def server(self, part, port, next_port, tls):
        verify = "required" if self.strict else "optional"
        text = CONFIG.format(port=port, next=next_port, tls=tls, pki=self.world.pki.folder, verify=verify)
        # Master and worker, so that it can be reloaded.
        self.part(part, ["haproxy", "-W", "-q", "-f", self.write(f"{part}.cfg", text)])

    def reload(self):
        for part in self.parts.values():
            part.send_signal(signal.SIGUSR2)
