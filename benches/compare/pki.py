"""The certificates of a run: root, intermediate, and leaves that are sent with the intermediate, in P-256 and in RSA-2048."""

import os
import subprocess

HOST = "bench.opencmg.test"
RSA_HOST = "rsa.opencmg.test"
DAYS = "30"

CA = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n"
LEAF = (
    "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
    "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
)


def point_name(number):
    """What a connection point is called."""
    return f"point-{number}.opencmg.test"


class Pki:
    """A folder with `ec-` and `rsa-` sets of `root`, `intermediate`, `server`, `client`, `point` (`.pem` and `.key`)."""

    def __init__(self, folder):
        self.folder = folder
        if not os.path.exists(self.path("roots.pem")):
            os.makedirs(folder, exist_ok=True)
            self._make()

    def path(self, name):
        return os.path.join(self.folder, name)

    def pair(self, name):
        """The files of a chain and its key."""
        return self.path(f"{name}.pem"), self.path(f"{name}.key")

    def point(self, number):
        """The files of one connection point of several."""
        name = "ec-point" if number == 0 else f"ec-point-{number}"
        if not os.path.exists(self.path(f"{name}.pem")):
            self._leaf("ec", name.removeprefix("ec-"), point_name(number))
        return self.pair(name)

    def _make(self):
        for kind, host in (("ec", HOST), ("rsa", RSA_HOST)):
            self._certificate(kind, "root", None, CA)
            self._certificate(kind, "intermediate", "root", CA + "authorityKeyIdentifier=keyid\n")
            server = f"extendedKeyUsage=serverAuth\nsubjectAltName=DNS:{host},DNS:*.{host}\n"
            self._certificate(kind, "server", "intermediate", LEAF + server)
            self._leaf(kind, "client", "client.opencmg.test")
            self._leaf(kind, "point", point_name(0))
        for name in ("intermediate", "root"):
            self._join(f"{name}s.pem", [f"ec-{name}.pem", f"rsa-{name}.pem"])
        for kind in ("ec", "rsa"):
            for name in ("server", "client", "point"):
                self._join(f"{kind}-{name}.both.pem", [f"{kind}-{name}.pem", f"{kind}-{name}.key"])

    def _leaf(self, kind, name, dns):
        usage = f"extendedKeyUsage=clientAuth\nsubjectAltName=DNS:{dns}\n"
        self._certificate(kind, name, "intermediate", LEAF + usage)

    def _certificate(self, kind, name, issuer, extensions):
        certificate, key = self.pair(f"{kind}-{name}")
        algorithm = ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
        if kind == "rsa":
            algorithm = ["RSA", "-pkeyopt", "rsa_keygen_bits:2048"]
        _openssl("genpkey", "-algorithm", *algorithm, "-out", key)
        request, conf = self.path("request.pem"), self.path("extensions.cnf")
        with open(conf, "w", encoding="utf-8") as file:
            file.write(extensions)
        _openssl("req", "-new", "-key", key, "-subj", f"/CN=opencmg compare {kind} {name}", "-out", request)
        sign = ["-signkey", key]
        if issuer:
            above, above_key = self.pair(f"{kind}-{issuer}")
            sign = ["-CA", above, "-CAkey", above_key]
        _openssl(
            "x509", "-req", "-in", request, *sign, "-set_serial", f"0x{os.urandom(8).hex()}",
            "-days", DAYS, "-sha256", "-extfile", conf, "-out", certificate,
        )  # fmt: skip
        if issuer == "intermediate":
            with open(above, encoding="ascii") as file:
                chain = file.read()
            with open(certificate, "a", encoding="ascii") as file:
                file.write(chain)
        os.remove(request)
        os.remove(conf)

    def _join(self, name, parts):
        with open(self.path(name), "w", encoding="ascii") as out:
            for part in parts:
                with open(self.path(part), encoding="ascii") as file:
                    out.write(file.read())


def _openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
