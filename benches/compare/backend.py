"""The backend of every candidate: one nginx with one worker, which serves files, reads uploads and counts requests."""

import os
import socket

from machine import free_port, wait_until

ROLE = "72057594037927939"
PATH = f"/CCM_Proxy_MutualAuth/{ROLE}"
OPEN_PATH = f"/CCM_Proxy_ServerAuth/{ROLE}"
FILES = {"1k": 1 << 10, "100k": 100 << 10, "10m": 10 << 20}

CONFIG = """\
{user}
worker_processes 1;
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
error_log {folder}/error.log error;
events {{ worker_connections 12000; }}
http {{
    access_log off;
    sendfile on;
    tcp_nodelay on;
    keepalive_timeout 600;
    keepalive_requests 1000000000;
    {temp}
    upstream sink {{ server 127.0.0.1:{port}; keepalive 256; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        root {folder}/www;
        location = /count {{ stub_status; }}
        # The whole body is read before the answer is asked for: `return` alone would answer first.
        location ~ /upload$ {{
            client_max_body_size 0;
            client_body_buffer_size 256k;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_method GET;
            rewrite ^ /read break;
            proxy_pass http://sink;
        }}
        location = /read {{ return 200 "read"; }}
    }}
}}
"""


def temp_paths(folder):
    """nginx's folders for what does not fit into memory, below one of ours."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)


def nginx_user():
    """Workers of a root's nginx would otherwise be a user who may not see our folders."""
    return "user root;" if os.geteuid() == 0 else ""


class Backend:
    """The running backend."""

    def __init__(self, processes, folder):
        self.folder = folder
        self.port = free_port()
        for path in (PATH, OPEN_PATH, ""):
            os.makedirs(f"{folder}/www{path}/files", exist_ok=True)
        for name, size in FILES.items():
            with open(f"{folder}/www/{name}", "wb") as file:
                file.write(os.urandom(size))
            for path in (PATH, OPEN_PATH, ""):
                link = f"{folder}/www{path}/files/{name}"
                # One of before says where the folder was then.
                if os.path.lexists(link):
                    os.remove(link)
                os.symlink(f"{folder}/www/{name}", link)
        config = f"{folder}/nginx.conf"
        with open(config, "w", encoding="utf-8") as file:
            text = CONFIG.format(folder=folder, port=self.port, user=nginx_user(), temp=temp_paths(folder))
            file.write(text)
        command = ["nginx", "-p", folder, "-c", config, "-e", f"{folder}/error.log", "-g", "daemon off;"]
        self.process = processes.start("backend", command)
        wait_until(lambda: processes.check() or self._answers(), "the backend")

    def _answers(self):
        try:
            self.requests()
            return True
        except (OSError, IndexError):
            return False

    def requests(self):
        """How many requests it has seen, without those of this question."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as conn:
            conn.sendall(b"GET /count HTTP/1.0\r\n\r\n")
            text = b""
            while part := conn.recv(4096):
                text += part
        # "server accepts handled requests", then the three numbers.
        self.asked = getattr(self, "asked", 0) + 1
        return int(text.split(b"requests", 1)[1].split()[2]) - self.asked
