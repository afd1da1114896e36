"""Credentials for registries: from Docker's configuration and its helpers."""

import json

import pytest

from ota.author.docker_config import Login, login
from ota.errors import OtaError


def helper(folder, text: str):
    """A credential helper called docker-credential-test, as the only one in a PATH."""
    path = folder / "docker-credential-test"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin", "DOCKER_CONFIG": str(folder)}


def test_credentials_come_from_a_helper_before_the_file(tmp_path):
    environment = helper(tmp_path, 'read -r host; echo "{\\"Username\\": \\"$host\\", \\"Secret\\": \\"s\\"}"')
    config = {
        "credHelpers": {"a.example": "test"},
        "auths": {"https://b.example/v1/": {"auth": "dTpw"}, "c.example": {"auth": "!"}, "https://[": {}},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert login("a.example", environment) == Login("a.example", "s")
    assert login("b.example", environment) == Login("u", "p")
    assert login("d.example", environment) is None
    with pytest.raises(OtaError, match="auth is not Base64"):
        login("c.example", environment)
    assert "'s'" not in repr(Login("u", "s"))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("exec sleep 5", "docker-credential-test: no answer in 0.3 s"),
        ("echo broken >&2; exit 1", "docker-credential-test failed for a.example: broken"),
        ("echo '[]'", "has no Username and Secret"),
        ("yes | head -c 1000000", "has no Username and Secret"),
    ],
)
def test_a_helper_that_fails_is_no_reason_to_go_on_without_credentials(tmp_path, program, message):
    (tmp_path / "config.json").write_text('{"credsStore": "test"}')
    with pytest.raises(OtaError, match=message):
        login("a.example", helper(tmp_path, program), helper_s=0.3 if "sleep" in program else 30)


def test_a_helper_that_knows_nobody_leaves_it_to_the_file_and_none_is_run_by_a_path(tmp_path):
    (tmp_path / "config.json").write_text('{"credsStore": "test", "auths": {"a.example": {"identitytoken": "t"}}}')
    environment = helper(tmp_path, "echo credentials not found in native keychain; exit 1")
    assert login("a.example", environment) == Login("", "t", is_token=True)
    (tmp_path / "config.json").write_text('{"credsStore": "x/../../bin/sh"}')
    with pytest.raises(OtaError, match="no name of a credential helper"):
        login("a.example", environment)
