"""Modules in OCI registries: a real registry through the commands, and registries that lie, stall and send elsewhere."""

import json
import ssl
import time

import pytest

from ota.author import artifact
from ota.author.docker_config import Login
from ota.author.http import HttpError, Times
from ota.author.registry import Repository
from ota.formats import oci
from ota.formats.chunks import BLOB_LIMIT_BYTES
from ota.formats.oci import Reference
from ota.formats.reasons import Reason, Refused
from tests.support.lab import echo
from tests.support.operator import ota
from tests.support.registry import (
    HTPASSWD,
    PASSWORD,
    USER,
    DockerRegistry,
    ScriptedRegistry,
    descriptor,
    docker_config,
    plain_artifact,
)
from tests.support.tls import server_certificate

MODULE = echo(1)
TOML = b'[module]\nname = "echo"\nversion = "1.0.0"\n[capabilities.messaging]\nsubscribe = ["sys/#"]\npublish = ["out/#"]\n'
QUICK = Times(stall_s=0.4, small_s=0.6, blob_s=0.8)


@pytest.fixture(autouse=True)
def nobody(tmp_path, monkeypatch):
    """Whoever runs the tests may be logged in somewhere."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@pytest.fixture
def registry(tmp_path):
    opened = DockerRegistry(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def scripted():
    opened = ScriptedRegistry()
    yield opened
    opened.close()


@pytest.fixture
def elsewhere(tmp_path):
    """Another server, over TLS, with a certificate of a private authority."""
    server_certificate(tmp_path)
    opened = ScriptedRegistry(tmp_path / "server.pem")
    yield opened
    opened.close()


def repository(server, rest="x:1", known: Login | None = None, **more) -> Repository:
    context = more.pop("context", None) or ssl.create_default_context()
    return Repository(Reference.parse(f"oci://{server.host}/{rest}"), context, lambda host: known, **more)


def refusal(function, *values) -> Refused:
    with pytest.raises(Refused) as caught:
        function(*values)
    return caught.value


def module_files(folder, number=1):
    (folder / "echo.wasm").write_bytes(echo(number))
    (folder / "echo.toml").write_bytes(TOML)
    return folder / "echo.wasm"


# -- the commands, with the registry that most registries are


def test_what_is_pushed_is_published_and_its_digest_stands_in_the_manifest(workspace, registry, tmp_path, capsys):
    reference = f"oci://{registry.host}/team/echo:1.0.0"
    assert ota(workspace, "push", reference, module_files(tmp_path), "--json") == 0
    pushed = json.loads(capsys.readouterr().out)
    assert ota(workspace, "build", reference, "-o", tmp_path / "dist") == 0
    assert ota(workspace, "verify", tmp_path / "dist" / "echo-1.0.0") == 0
    pinned = f"oci://{registry.host}/team/echo@{pushed['digest']}"
    assert f"origin  {pinned}\n" in capsys.readouterr().out
    assert (tmp_path / "dist" / "echo-1.0.0" / "module.wasm").read_bytes() == MODULE
    assert ota(workspace, "publish", pinned, "--dry-run") == 0
    assert capsys.readouterr().out.startswith("echo 1.0.0 for group lab: ")
    assert ota(workspace, "rebuild", tmp_path / "dist" / "echo-1.0.0", tmp_path / "echo.wasm", "--check") == 0


def test_the_same_files_are_the_same_artifact_in_the_layout_of_the_cncf(registry, tmp_path):
    path = module_files(tmp_path)
    first, again = (artifact.push(repository(registry, f"echo:{tag}", writes=True), path) for tag in ("1", "2"))
    assert first.digest == again.digest
    manifest = json.loads(repository(registry, "echo:1").manifest("1"))
    assert manifest["config"]["mediaType"] == "application/vnd.wasm.config.v0+json"
    assert manifest["layers"][0]["mediaType"] == "application/wasm"
    found = oci.Artifact.from_bytes(repository(registry, "echo:1").manifest("1"), "test")
    config = json.loads(repository(registry, "echo:1").blob(found.config, 1 << 16))
    assert (config["architecture"], config["os"]) == ("wasm", "wasip1")
    assert config["layerDigests"] == [each["digest"] for each in manifest["layers"]]


@pytest.mark.parametrize("date", ["yesterday", "-1", "9" * 5000])
def test_a_date_of_reproducible_builds_that_is_none_is_one_line(workspace, registry, tmp_path, capsys, monkeypatch, date):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", date)
    assert ota(workspace, "push", f"oci://{registry.host}/echo:1", module_files(tmp_path)) == 1
    assert capsys.readouterr().err.startswith(f"ota: SOURCE_DATE_EPOCH is {date[:100]!r}, not seconds since 1970")


def test_a_tag_that_moves_between_resolving_and_fetching_changes_nothing(registry, tmp_path):
    first = artifact.push(repository(registry, "echo:latest", writes=True), module_files(tmp_path))

    class Moving(Repository):
        def manifest(self, tag_or_digest):
            document = super().manifest(tag_or_digest)
            artifact.push(repository(registry, "echo:latest", writes=True), module_files(tmp_path, 2))
            return document

    reference = Reference.parse(f"oci://{registry.host}/echo:latest")
    found = artifact.fetch(Moving(reference, ssl.create_default_context(), lambda host: None))
    assert (found.blob, found.pinned.digest) == (MODULE, first.digest)
    assert artifact.fetch(repository(registry, "echo:latest")).blob == echo(2)
    assert artifact.fetch(repository(registry, f"echo:latest@{first.digest}")).blob == MODULE  # the digest counts


def test_a_private_registry_wants_its_authority_and_the_credentials_of_docker(workspace, tmp_path, monkeypatch, capsys):
    server_certificate(tmp_path)
    registry = DockerRegistry(tmp_path, certificate=tmp_path / "server.pem", htpasswd=HTPASSWD)
    words = ("push", f"oci://{registry.host}/echo:1", module_files(tmp_path))
    trusted = ("--registry-ca", tmp_path / "server.pem")
    try:
        assert ota(workspace, *words) == 1
        assert "registry-untrusted" in capsys.readouterr().err
        assert ota(workspace, *words, *trusted) == 1
        assert f"credentials are wanted: `docker login {registry.host}`" in capsys.readouterr().err
        monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path / "wrong", registry.host, password="guess")))
        assert ota(workspace, *words, *trusted) == 1
        assert "the server answers 401" in capsys.readouterr().err
        monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path / "right", registry.host)))
        assert ota(workspace, *words, *trusted) == 0
        assert ota(workspace, "build", words[1], "-o", tmp_path / "dist", *trusted) == 0
        said = capsys.readouterr()
        assert PASSWORD not in said.out + said.err
    finally:
        registry.close()


def test_a_description_can_be_given_for_an_artifact_that_has_none(workspace, scripted, tmp_path, capsys):
    digest = scripted.serve("x", [MODULE], plain_artifact(MODULE))
    description = tmp_path / "mine.toml"
    description.write_bytes(TOML)
    words = ("build", f"oci://{scripted.host}/x:1", "-o", tmp_path / "dist")
    assert ota(workspace, *words) == 0
    assert f"x@{digest} has no .toml beside it: the module subscribes to nothing" in capsys.readouterr().err
    assert ota(workspace, *words, "--description", description) == 0
    assert (tmp_path / "dist" / "echo-1.0.0").is_dir()


COMMANDS = [
    ("run", ("--event", "sys/x=1"), "publish  topic=out/echo"),
    ("inspect", (), 'has the .toml  version = "1.0.0"'),
    ("sbom", (), '"name": "echo"'),
]


@pytest.mark.parametrize(("verb", "options", "shown"), COMMANDS, ids=[each[0] for each in COMMANDS])
def test_a_module_in_a_registry_is_taken_by_each_command_as_a_file_is(tmp_path, monkeypatch, capfd, verb, options, shown):
    server_certificate(tmp_path)
    registry = DockerRegistry(tmp_path, certificate=tmp_path / "server.pem", htpasswd=HTPASSWD)
    reference, trusted = f"oci://{registry.host}/echo:1", ("--registry-ca", tmp_path / "server.pem")
    try:
        assert ota(tmp_path, verb, reference, *options) == 1
        assert "registry-untrusted" in capfd.readouterr().err
        assert ota(tmp_path, verb, reference, *options, *trusted) == 1
        assert "credentials are wanted" in capfd.readouterr().err
        monkeypatch.setenv("DOCKER_CONFIG", str(docker_config(tmp_path / "docker", registry.host)))
        assert ota(tmp_path, "push", reference, module_files(tmp_path), *trusted, "--json") == 0
        pinned = json.loads(capfd.readouterr().out)["pinned"]
        assert ota(tmp_path, verb, reference, *options, *trusted) == 0
        said = capfd.readouterr()
        assert f"{pinned}: {len(MODULE)} bytes" in said.err
        assert shown in said.out
        assert ota(tmp_path, verb, pinned.replace(pinned[-4:], "0000"), *options, *trusted) == 1
        assert "the server answers 404" in capfd.readouterr().err
    finally:
        registry.close()


def test_what_is_inspected_in_a_registry_is_named_by_its_digest(scripted, tmp_path, capsys):
    digest = scripted.serve("x", [MODULE, TOML], plain_artifact(MODULE))
    pinned = f"oci://{scripted.host}/x@{digest}"
    assert ota(tmp_path, "inspect", f"oci://{scripted.host}/x:1") == 0
    assert capsys.readouterr().out.startswith(f"artifact    {pinned}\n")
    assert ota(tmp_path, "inspect", f"oci://{scripted.host}/x:1", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["artifact"], found["artifact_description"], found["bytes"]) == (pinned, "", len(MODULE))
    with pytest.raises(SystemExit):
        ota(tmp_path, "inspect", pinned, "--description", tmp_path / "echo.toml")  # it would change nothing that is shown


def test_an_update_is_built_again_from_where_it_came(workspace, registry, tmp_path, capsys):
    reference = f"oci://{registry.host}/echo:1"
    assert ota(workspace, "push", reference, module_files(tmp_path)) == 0
    assert ota(workspace, "build", reference, "-o", tmp_path / "dist") == 0
    folder = tmp_path / "dist" / "echo-1.0.0"
    assert ota(workspace, "rebuild", folder, reference, "--check") == 0
    assert ota(workspace, "push", reference, module_files(tmp_path, 2)) == 0  # the tag moves
    capsys.readouterr()
    assert ota(workspace, "rebuild", folder, reference, "--check") == 1
    assert "not the same: the module" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--cosign-key", "--registry-ca", "--description"])
def test_an_option_for_registries_is_no_decoration_of_a_file(workspace, tmp_path, option, capsys):
    for source in (module_files(tmp_path), "document.cbor"):
        assert ota(workspace, "publish", source, "--dry-run", option, tmp_path / "echo.toml") == 2
        assert f"{option} is for oci://" in capsys.readouterr().err
    for verb in ("run", "sbom") if option == "--description" else ("run", "sbom", "inspect"):
        assert ota(workspace, verb, module_files(tmp_path), option, tmp_path / "echo.toml") == 2
        assert f"{option} is for oci://" in capsys.readouterr().err


# -- what is in a registry


@pytest.mark.parametrize(
    ("media_type", "title"),
    [
        ("application/wasm", ""),
        ("application/vnd.wasm.content.layer.v1+wasm", ""),
        ("application/vnd.oci.image.layer.v1.tar", "echo.wasm"),
    ],
)
def test_plain_files_of_oras_are_taken(scripted, media_type, title):
    digest = scripted.serve("x", [MODULE], plain_artifact(MODULE, media_type, title))
    found = artifact.fetch(repository(scripted))
    assert (found.blob, found.description, found.pinned.digest) == (MODULE, b"", digest)


@pytest.mark.parametrize(
    "layers",
    [
        [],
        [descriptor(MODULE, oci.WASM), descriptor(b"2", oci.WASM)],
        [descriptor(MODULE, "application/vnd.oci.image.layer.v1.tar+gzip", "echo.wasm")],
        [descriptor(MODULE, oci.WASM), descriptor(b"a", oci.DESCRIPTION), descriptor(b"b", oci.DESCRIPTION)],
    ],
)
def test_an_artifact_without_one_module_is_refused(scripted, layers):
    scripted.serve("x", [MODULE], plain_artifact(MODULE) | {"layers": layers})
    assert refusal(artifact.fetch, repository(scripted)).reason is Reason.ARTIFACT_UNSUITABLE


def index(*entries) -> dict:
    manifests = [
        descriptor(document, oci.MANIFEST, platform={"os": system, "architecture": cpu}) for document, system, cpu in entries
    ]
    return {"schemaVersion": 2, "mediaType": oci.INDEXES[0], "manifests": manifests}


def test_of_an_index_the_manifest_for_wasm_is_taken_and_the_index_is_pinned(scripted):
    ours, other = json.dumps(plain_artifact(MODULE)).encode(), b'{"other": 1}'
    scripted.serve("x", [MODULE], ours, tag="ours")
    digest = scripted.serve("x", [], index((other, "linux", "amd64"), (ours, "wasip1", "wasm"), (other, "wasip2", "wasm")))
    found = artifact.fetch(repository(scripted))
    assert (found.blob, found.pinned.digest) == (MODULE, digest)


@pytest.mark.parametrize("entries", [[("linux", "amd64")], [("wasip1", "wasm"), ("wasip1", "wasm")], []])
def test_an_index_that_leaves_the_choice_open_is_refused(scripted, entries):
    scripted.serve("x", [], index(*((bytes([n]), *each) for n, each in enumerate(entries))))
    assert refusal(artifact.fetch, repository(scripted)).reason is Reason.ARTIFACT_UNSUITABLE


def test_an_index_in_an_index_and_a_document_that_is_both_are_refused(scripted):
    inner = json.dumps(index()).encode()
    scripted.serve("x", [], inner, tag="inner")
    scripted.serve("x", [], index((inner, "wasip1", "wasm")))
    assert refusal(artifact.fetch, repository(scripted)).reason is Reason.MALFORMED
    scripted.serve("y", [MODULE], plain_artifact(MODULE) | {"manifests": []})
    assert refusal(artifact.fetch, repository(scripted, "y:1")).reason is Reason.ARTIFACT_UNSUITABLE


def test_a_config_about_other_layers_is_refused(scripted):
    config = json.dumps({"architecture": "wasm", "os": "wasip1", "layerDigests": [oci.digest_of(b"other")]}).encode()
    manifest = plain_artifact(MODULE) | {"config": descriptor(config, oci.CONFIG)}
    scripted.serve("x", [MODULE, config], manifest)
    assert refusal(artifact.fetch, repository(scripted)).reason is Reason.MALFORMED


# -- registries that lie


def test_a_manifest_with_another_digest_is_refused(scripted):
    digest = scripted.serve("x", [MODULE], plain_artifact(MODULE))
    scripted.answers[f"/v2/x/manifests/{digest}"] = (200, {}, json.dumps(plain_artifact(b"other")).encode())
    assert refusal(artifact.fetch, repository(scripted, f"x@{digest}")).reason is Reason.MANIFEST_DIGEST_MISMATCH
    body = scripted.answers["/v2/x/manifests/1"][2]
    scripted.answers["/v2/x/manifests/1"] = (200, {"Docker-Content-Digest": oci.digest_of(b"")}, body)
    assert refusal(artifact.fetch, repository(scripted)).reason is Reason.MANIFEST_DIGEST_MISMATCH


@pytest.mark.parametrize("body", [echo(2), MODULE[:-1], b""])
def test_a_module_with_another_digest_is_refused(scripted, body):
    scripted.serve("x", [MODULE], plain_artifact(MODULE))
    scripted.answers[f"/v2/x/blobs/{oci.digest_of(MODULE)}"] = (200, {}, body)
    assert refusal(artifact.fetch, repository(scripted)).reason in (Reason.BLOB_DIGEST_MISMATCH, Reason.TOO_LARGE)


def test_a_module_that_is_announced_as_huge_is_not_asked_for(scripted):
    manifest = plain_artifact(MODULE)
    manifest["layers"][0]["size"] = BLOB_LIMIT_BYTES + 1
    scripted.serve("x", [MODULE], manifest)
    assert refusal(artifact.fetch, repository(scripted)).reason is Reason.TOO_LARGE
    assert scripted.asked("/blobs/") == []


def endless(handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(bytes(1 << 16))
    except OSError:
        pass


@pytest.mark.parametrize("part", ["blobs", "manifests"])
def test_a_body_without_an_end_is_refused(scripted, part):
    scripted.serve("x", [MODULE], plain_artifact(MODULE))
    for path in scripted.answers:
        if part in path:
            scripted.answers[path] = endless
    assert refusal(artifact.fetch, repository(scripted)).reason is Reason.TOO_LARGE


def test_a_manifest_that_is_announced_as_huge_is_refused_before_it_is_read(scripted):
    scripted.answers["/v2/x/manifests/1"] = (200, {"Content-Length": str(1 << 40)}, b"")
    error = refusal(artifact.fetch, repository(scripted))
    assert (error.reason, "are announced" in error.detail) == (Reason.TOO_LARGE, True)


def silent(handler) -> None:
    time.sleep(1.5)


def dripping(handler) -> None:
    """A byte of a header now and then, which no timeout of a socket notices."""
    try:
        for _ in range(20):
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: "[:1])
            time.sleep(0.1)
    except OSError:
        pass


@pytest.mark.parametrize("how", [silent, dripping])
@pytest.mark.parametrize("part", ["blobs", "manifests"])
def test_a_registry_that_stalls_is_given_up(scripted, how, part):
    scripted.serve("x", [MODULE], plain_artifact(MODULE))
    for path in scripted.answers:
        if part in path:
            scripted.answers[path] = how
    with pytest.raises(HttpError, match=r"no answer|timed out"):
        artifact.fetch(repository(scripted, times=QUICK))


# -- credentials, and where they go

KNOWN = Login(USER, PASSWORD)


def wanting(scripted, challenge, accepted, body) -> None:
    """A path that asks for credentials."""

    def answer(handler):
        if handler.headers.get("Authorization") != accepted:
            return 401, {"WWW-Authenticate": challenge}, b""
        return (200, {}, body) if isinstance(body, bytes) else body

    return answer


def test_credentials_follow_no_redirect_to_another_server(scripted, elsewhere, tmp_path):
    scripted.serve("x", [MODULE], plain_artifact(MODULE))
    blob = f"/v2/x/blobs/{oci.digest_of(MODULE)}"
    place = f"https://{elsewhere.host}/store/1?signed=yes"
    scripted.answers["/v2/x/manifests/1"] = wanting(
        scripted, 'Basic realm="x"', KNOWN.basic, scripted.answers["/v2/x/manifests/1"][2]
    )
    scripted.answers[blob] = wanting(scripted, 'Basic realm="x"', KNOWN.basic, (307, {"Location": place}, b""))
    elsewhere.answers["/store/1"] = (200, {}, MODULE)
    trusting = ssl.create_default_context(cafile=tmp_path / "server.pem")
    assert artifact.fetch(repository(scripted, known=KNOWN, context=trusting)).blob == MODULE
    assert all("authorization" not in headers for headers in elsewhere.asked("/store"))
    assert [headers["authorization"] for headers in scripted.asked("/blobs/")] == [KNOWN.basic]


def test_a_server_at_the_end_of_a_redirect_gets_no_credentials_though_it_asks(scripted, elsewhere, tmp_path):
    scripted.serve("x", [MODULE], plain_artifact(MODULE))
    blob = f"/v2/x/blobs/{oci.digest_of(MODULE)}"
    scripted.answers[blob] = (307, {"Location": f"https://{elsewhere.host}/store"}, b"")
    elsewhere.answers["/store"] = (401, {"WWW-Authenticate": 'Basic realm="x"'}, b"")
    trusting = ssl.create_default_context(cafile=tmp_path / "server.pem")
    with pytest.raises(HttpError, match="the server answers 401"):
        artifact.fetch(repository(scripted, known=KNOWN, context=trusting))
    assert [headers.get("authorization") for headers in elsewhere.asked("/store")] == [None]


@pytest.mark.parametrize("place", ["http://127.0.0.1:1/x", "file:///etc/passwd", "http://[", ""])
def test_a_redirect_to_what_is_not_over_tls_is_refused(scripted, place):
    scripted.serve("x", [MODULE], plain_artifact(MODULE))
    scripted.answers[f"/v2/x/blobs/{oci.digest_of(MODULE)}"] = (302, {"Location": place}, b"")
    assert refusal(artifact.fetch, repository(scripted)).reason is Reason.REGISTRY_UNTRUSTED


def test_redirects_in_a_circle_end(scripted):
    scripted.answers["/v2/x/manifests/1"] = (302, {"Location": "/v2/x/manifests/1"}, b"")
    assert refusal(artifact.fetch, repository(scripted)).reason is Reason.REGISTRY_UNTRUSTED
    assert len(scripted.asked("/manifests/")) == 4


def test_an_upload_is_not_sent_to_another_server(scripted, tmp_path, monkeypatch):
    scripted.answers["/v2/x/blobs/uploads/"] = (202, {"Location": "https://127.0.0.1:1/take"}, b"")
    handler = scripted._server.RequestHandlerClass
    monkeypatch.setattr(handler, "do_POST", handler.do_GET, raising=False)
    pushed = repository(scripted, writes=True)
    assert refusal(artifact.push, pushed, module_files(tmp_path)).reason is Reason.REGISTRY_UNTRUSTED


def with_token_server(scripted, realm) -> None:
    scripted.serve("x", [MODULE], plain_artifact(MODULE))
    challenge = f'Bearer realm="{realm}",service="the registry",scope="repository:everything:push"'
    for path, (_, _, body) in list(scripted.answers.items()):
        scripted.answers[path] = wanting(scripted, challenge, "Bearer abc", body)


def test_a_token_is_asked_for_this_repository_and_for_reading_alone(scripted):
    with_token_server(scripted, f"http://{scripted.host}/token")
    scripted.answers["/token"] = (200, {}, b'{"token": "abc"}')
    assert artifact.fetch(repository(scripted, known=KNOWN)).blob == MODULE
    ((path, headers),) = [each for each in scripted.requests if each[0].startswith("/token")]
    assert path == "/token?service=the+registry&scope=repository%3Ax%3Apull"
    assert headers["authorization"] == KNOWN.basic


@pytest.mark.parametrize("realm", ["http://127.0.0.1:1/token", "ftp://x/", ""])
def test_a_token_server_that_is_not_over_tls_gets_no_credentials(scripted, realm):
    with_token_server(scripted, realm)
    assert refusal(artifact.fetch, repository(scripted, known=KNOWN)).reason is Reason.REGISTRY_UNTRUSTED


def test_a_token_that_would_be_a_header_of_its_own_is_refused(scripted):
    with_token_server(scripted, f"http://{scripted.host}/token")
    scripted.answers["/token"] = (200, {}, b'{"token": "abc\\r\\nX: y"}')
    with pytest.raises(HttpError, match="gave no token"):
        artifact.fetch(repository(scripted))
