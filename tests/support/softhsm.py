"""Tokens of SoftHSM for boards, each a folder, and OpenSSL's provider that opens connections with their keys."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from boards.errors import BoardError
from boards.packages import Package, fetch
from tests.support.cache import CACHE, locked

PIN = "4321"
MODULE = next((str(each) for each in Path("/usr/lib").glob("**/softhsm/libsofthsm2.so")), "")
# Debian 12 has none; Debian 13's needs nothing that Debian 12 lacks.
_PROVIDER = Package(
    "tools",
    "pkcs11-provider",
    "1.0-3",
    124664,
    "a5df2585de08d0641ab52022487d75857b139e3ad0b1e4c2a07a652dc713e8dc",
    "pool/main/p/pkcs11-provider/pkcs11-provider_1.0-3_amd64.deb",
)


def provider_folder():
    """The folder with OpenSSL's provider pkcs11; skips the test where it cannot be had."""
    for found in Path("/usr/lib").glob("*/ossl-modules/pkcs11.so"):
        return found.parent
    if platform.machine() != "x86_64":
        pytest.skip("OpenSSL's provider pkcs11 is not installed (Debian 13: pkcs11-provider)")
    target = CACHE / f"pkcs11-provider-{_PROVIDER.version}"
    with locked("pkcs11-provider"):
        if not target.exists():
            try:
                file = fetch([_PROVIDER], CACHE / "packages")[_PROVIDER.name]
            except BoardError as error:
                pytest.skip(f"OpenSSL's provider pkcs11 can't be had: {error}")
            with tempfile.TemporaryDirectory(dir=CACHE) as folder:
                subprocess.run(["dpkg-deb", "-x", str(file), folder], check=True)
                Path(folder, "usr/lib/x86_64-linux-gnu/ossl-modules").rename(target)
    return target


class Token:
    """One token, in a folder. `uri` names a key on it; processes see it by `environment`."""

    def __init__(self, folder, label="board", pin=PIN):
        self.folder, self.label = folder, label
        (folder / "tokens").mkdir(parents=True)
        (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\n")
        self.environment = {"SOFTHSM2_CONF": str(folder / "softhsm2.conf"), "OPENSSL_MODULES": str(provider_folder())}
        tool = [shutil.which("softhsm2-util") or "softhsm2-util", "--init-token", "--free", "--so-pin", "1234", "--pin", PIN]
        subprocess.run([*tool, "--label", label], check=True, capture_output=True, env={**os.environ, **self.environment})
        self.pin = folder / "pin"
        self.pin.touch(0o600)
        self.pin.write_text(f"{pin}\n")

    def uri(self, key="device"):
        """Of a key with this label."""
        return f"pkcs11:token={self.label};object={key}?module-path={MODULE}&pin-source=file:{self.pin}"

    def change_pin(self, pin):
        """On the token, and not in its file."""
        code = (
            "import sys, pkcs11; one, = pkcs11.lib(sys.argv[1]).get_tokens(token_label=sys.argv[2]);"
            "one.open(rw=True, user_pin=sys.argv[3]).set_pin(sys.argv[3], sys.argv[4])"
        )
        command = [sys.executable, "-c", code, MODULE, self.label, PIN, pin]
        subprocess.run(command, check=True, env={**os.environ, **self.environment})

    def pull_out(self):
        """As a smart card."""
        (self.folder / "tokens").rename(self.folder / "elsewhere")
        (self.folder / "tokens").mkdir()

    def put_back(self):
        """Again."""
        (self.folder / "tokens").rmdir()
        (self.folder / "elsewhere").rename(self.folder / "tokens")
