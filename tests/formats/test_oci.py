"""What registries say: references, descriptors, manifests and indexes at the edges of what is taken."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota.errors import OtaError
from ota.formats import oci
from ota.formats.chunks import BLOB_LIMIT_BYTES
from ota.formats.oci import Artifact, Descriptor, Reference
from ota.formats.provenance import LINE_LIMIT
from ota.formats.reasons import Reason, Refused

DIGEST = oci.digest_of(b"")
PLAIN_TAR = "application/vnd.oci.image.layer.v1.tar"


def entry(media_type=oci.WASM, digest=DIGEST, size=1, **more) -> dict:
    return {"mediaType": media_type, "digest": digest, "size": size, **more}


def artifact(*layers: dict) -> Artifact:
    return Artifact.from_bytes(json.dumps({"config": entry(oci.CONFIG), "layers": layers}).encode(), "x")


def index(*entries: dict) -> bytes:
    return json.dumps({"manifests": entries}).encode()


def system(name: str, processor: str, **more) -> dict:
    return entry(oci.MANIFEST, platform={"os": name, "architecture": processor}, **more)


def refusal(function, *values) -> Refused:
    with pytest.raises(Refused) as caught:
        function(*values)
    return caught.value


# -- references


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("oci://x/y:1", Reference("x", "y", "1")),
        (f"oci://[::1]:5000/a/b@{DIGEST}", Reference("[::1]:5000", "a/b", "", DIGEST)),
        (f"oci://x/y:1@{DIGEST}", Reference("x", "y", "1", DIGEST)),
    ],
)
def test_a_reference_has_its_parts(text, reference):
    assert Reference.parse(text) == reference
    assert str(reference) == text
    assert str(reference.pinned(DIGEST)) == f"oci://{reference.host}/{reference.name}@{DIGEST}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("oci://x/y", "oci://x/y: a tag or a digest is missing: oci://x/y:TAG or oci://x/y@sha256:DIGEST"),
        ("file://x/y:1", "'file://x/y:1' is no artifact: oci://REGISTRY/NAME:TAG"),
        ("z" * 600, f"'{'z' * 2 * LINE_LIMIT}' is no artifact"),
    ],
)
def test_what_is_no_reference_is_said_in_bounds(text, told):
    with pytest.raises(OtaError) as caught:
        Reference.parse(text)
    assert str(caught.value).startswith(told)


def test_a_name_has_room_for_its_digest_in_a_line_of_a_manifest():
    room = LINE_LIMIT - len(f"oci://x/@{DIGEST}")
    tag = "t" * 128
    for text in (f"oci://x/{'y' * room}:{tag}", f"oci://x/{'y' * room}:{tag}@{DIGEST}"):
        assert str(Reference.parse(text)) == text
        assert len(str(Reference.parse(text).pinned(DIGEST))) == LINE_LIMIT
        with pytest.raises(OtaError, match="is too long to be kept in a manifest, 256 characters with the digest"):
            Reference.parse(text.replace("/", "/y", 3).replace("/y/y", "//"))


# -- descriptors


def test_a_descriptor_is_what_was_written():
    value = entry(
        oci.MANIFEST, size=0, annotations={oci.TITLE: "a.wasm", "n": 1}, platform={"os": "wasip1", "architecture": "wasm"},
        artifactType="t",
    )  # fmt: skip
    found = Descriptor.parse(value, "x")
    assert found == Descriptor(oci.MANIFEST, DIGEST, 0, {oci.TITLE: "a.wasm"}, ("wasip1", "wasm"), "t")
    assert found.title == "a.wasm"
    assert found.to_json() == entry(oci.MANIFEST, size=0, annotations={oci.TITLE: "a.wasm"})
    assert Descriptor.parse(entry(annotations=None, platform=None), "x").to_json() == entry()


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([], "a descriptor is no object"),
        (entry(media_type=1), "a descriptor has no media type, or no digest by SHA-256"),
        (entry(digest=1), "a descriptor has no media type, or no digest by SHA-256"),
        (entry(digest="sha512:" + "0" * 128), "a descriptor has no media type, or no digest by SHA-256"),
        (entry(digest=DIGEST + "0"), "a descriptor has no media type, or no digest by SHA-256"),
        (entry(size=-1), f"the size of {DIGEST} is not a number from 0 on"),
        (entry(size=True), f"the size of {DIGEST} is not a number from 0 on"),
        (entry(size=1.0), f"the size of {DIGEST} is not a number from 0 on"),
        (entry(annotations=[1]), f"annotations or platform of {DIGEST} are no objects"),
        (entry(platform="linux"), f"annotations or platform of {DIGEST} are no objects"),
    ],
)
def test_a_descriptor_of_another_form_is_malformed(value, why):
    error = refusal(Descriptor.parse, value, "x")
    assert (error.reason, error.detail) == (Reason.MALFORMED, f"x: {why}")


@pytest.mark.parametrize(
    ("media_type", "title", "is_module"),
    [
        (oci.WASM, "", True),
        ("application/vnd.wasm.content.layer.v1+wasm", "notes.txt", True),
        (PLAIN_TAR, "a.wasm", True),
        (PLAIN_TAR, "a.txt", False),
        ("text/plain", "a.wasm", False),
    ],
)
def test_a_module_is_known_by_its_type_or_as_a_plain_file_by_its_name(media_type, title, is_module):
    assert Descriptor(media_type, DIGEST, 1, {oci.TITLE: title}).is_module is is_module


# -- manifests


def test_the_module_and_its_description_are_found_among_other_layers():
    found = artifact(entry("text/plain"), entry(oci.DESCRIPTION, size=oci.DESCRIPTION_LIMIT_BYTES), entry(size=BLOB_LIMIT_BYTES))
    assert found.module("x") == found.layers[2]
    assert found.description("x") == found.layers[1]
    assert artifact(entry()).description("x") is None


@pytest.mark.parametrize(
    ("layers", "reason", "why"),
    [
        ([], Reason.ARTIFACT_UNSUITABLE, "x has 0 layers that are modules, one is expected (application/wasm); layers: none"),
        (
            [entry("text/plain"), entry("text/css"), entry("text/plain")],
            Reason.ARTIFACT_UNSUITABLE,
            "x has 0 layers that are modules, one is expected (application/wasm); layers: text/css, text/plain",
        ),
        (
            [entry(), entry()],
            Reason.ARTIFACT_UNSUITABLE,
            "x has 2 layers that are modules, one is expected (application/wasm); layers: application/wasm",
        ),
        ([entry(size=BLOB_LIMIT_BYTES + 1)], Reason.TOO_LARGE, f"x: {DIGEST} has 67108865 bytes, the limit is 67108864"),
    ],
)
def test_an_artifact_without_one_module_of_the_size_of_one_is_refused(layers, reason, why):
    error = refusal(artifact(*layers).module, "x")
    assert (error.reason, error.detail) == (reason, why)


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ([entry(oci.DESCRIPTION)] * 2, Reason.ARTIFACT_UNSUITABLE),
        ([entry(oci.DESCRIPTION, size=oci.DESCRIPTION_LIMIT_BYTES + 1)], Reason.TOO_LARGE),
    ],
)
def test_several_descriptions_and_one_too_large_are_refused(layers, reason):
    assert refusal(artifact(*layers).description, "x").reason is reason


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"architecture": "amd64", "layerDigests": [DIGEST]}, Reason.ARTIFACT_UNSUITABLE),
        ({"layerDigests": [DIGEST]}, Reason.ARTIFACT_UNSUITABLE),
        ({"architecture": "wasm", "layerDigests": []}, Reason.MALFORMED),
        ({"architecture": "wasm"}, Reason.MALFORMED),
    ],
)
def test_a_config_is_for_wasm_and_about_the_layers(config, reason):
    artifact(entry()).check_config(json.dumps({"architecture": "wasm", "layerDigests": [DIGEST]}).encode(), "x")
    assert refusal(artifact(entry()).check_config, json.dumps(config).encode(), "x").reason is reason


# -- indexes


@pytest.mark.parametrize(
    ("entries", "chosen"),
    [
        ([system("linux", "amd64"), system("wasip2", "wasm")], 1),
        ([system("wasip2", "wasm"), system("wasip1", "wasm"), system("wasip2", "wasm")], 1),
        ([system("linux", "amd64"), entry(oci.MANIFEST)], 1),
        ([entry(oci.MANIFEST), system("wasip2", "wasm")], 1),
        ([entry(), system("wasip1", "wasm")], 1),
        ([entry(oci.MANIFESTS[1], size=oci.MANIFEST_LIMIT_BYTES)], 0),
    ],
)
def test_of_an_index_the_manifest_for_wasm_or_the_only_one_is_taken(entries, chosen):
    assert oci.manifest_in(index(*entries), "x") == Descriptor.parse(entries[chosen], "x")


@pytest.mark.parametrize(
    ("entries", "reason", "why"),
    [
        ([], Reason.ARTIFACT_UNSUITABLE, "x has 0 manifests for wasm, name one by its digest; it has none"),
        ([entry()], Reason.ARTIFACT_UNSUITABLE, "x has 0 manifests for wasm, name one by its digest; it has none"),
        (
            [system("wasip2", "wasm"), system("linux", "amd64"), system("wasip2", "wasm")],
            Reason.ARTIFACT_UNSUITABLE,
            "x has 2 manifests for wasm, name one by its digest; it has linux/amd64, wasip2/wasm, wasip2/wasm",
        ),
        ([system("linux", "")], Reason.ARTIFACT_UNSUITABLE, "x has 0 manifests for wasm, name one by its digest; it has linux/"),
        (
            [system("", "wasm", size=oci.MANIFEST_LIMIT_BYTES + 1)],
            Reason.TOO_LARGE,
            f"x: {DIGEST} has 262145 bytes, the limit is 262144",
        ),
    ],
)
def test_an_index_that_leaves_the_choice_open_is_refused_with_what_it_has(entries, reason, why):
    error = refusal(oci.manifest_in, index(*entries), "x")
    assert (error.reason, error.detail) == (reason, why)


def test_an_index_has_at_most_64_entries():
    assert len(oci.entries(index(*[entry()] * 64), "x")) == 64
    error = refusal(oci.entries, index(*[entry()] * 65), "x")
    assert (error.reason, error.detail) == (Reason.TOO_LARGE, "x names 65 parts, at most 64 are looked through")
    for value in (b'{"manifests": "ab"}', b'{"manifests": {}}', b"{}"):
        error = refusal(oci.entries, value, "x")
        assert (error.reason, error.detail) == (Reason.MALFORMED, "x: no list of descriptors")


def test_json_from_outside_has_a_limit_and_is_an_object():
    assert oci.parse_json(b"{ }", 3, "x") == {}
    error = refusal(oci.parse_json, b"{  }", 3, "x")
    assert (error.reason, error.detail) == (Reason.TOO_LARGE, "x has 4 bytes, the limit is 3")
    for value, why in (
        (b"[]", "x: not a JSON object"),
        (b"{", "x: not JSON ("),
        (b"\xff", "x: not JSON ("),
    ):
        error = refusal(oci.parse_json, value, 1 << 20, "x")
        assert error.reason is Reason.MALFORMED
        assert error.detail.startswith(why)
    assert (oci.MANIFEST_LIMIT_BYTES, oci.CONFIG_LIMIT_BYTES, oci.DESCRIPTION_LIMIT_BYTES) == (262_144, 65_536, 65_536)
    for read, limit in (
        (lambda data: Artifact.from_bytes(data, "x"), oci.MANIFEST_LIMIT_BYTES),
        (lambda data: oci.entries(data, "x"), oci.MANIFEST_LIMIT_BYTES),
        (lambda data: artifact(entry()).check_config(data, "x"), oci.CONFIG_LIMIT_BYTES),
    ):
        assert refusal(read, b"{}" + b" " * (limit - 2)).reason is not Reason.TOO_LARGE
        assert refusal(read, b"{}" + b" " * (limit - 1)).reason is Reason.TOO_LARGE


@pytest.mark.parametrize(
    "text",
    ["oci://", "oci://x", "oci://x/y", "oci://x/Y:1", "oci://x/../y:1", "oci://x/a/../y:1", "oci://u@x/y:1", "oci://x/y:1?z",
     "oci://x/y@sha256:00", "oci://x/y:1\n", "oci://x/" + "y" * 300 + ":1", "oci://-x/y:1"],
)  # fmt: skip
def test_what_is_no_reference_is_refused(text):
    with pytest.raises(OtaError):
        Reference.parse(text)


@pytest.mark.parametrize("text", ["oci://x/y:1", "oci://[::1]:5000/a/b-c__d.e:v1", f"oci://x:1/y@{oci.digest_of(b'')}"])
def test_references_read_back(text):
    assert str(Reference.parse(text)) == text


_json = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.sampled_from([oci.WASM, oci.digest_of(b""), oci.MANIFEST]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["config", "layers", "manifests", "mediaType", "digest", "size", "platform"]), inner, max_size=6
        )
    ),
)


@given(_json | st.binary())
def test_garbage_is_refused_and_nothing_else(value):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    for read in (lambda: oci.Artifact.from_bytes(data, "x").module("x"), lambda: oci.manifest_in(data, "x")):
        with contextlib.suppress(Refused):
            read()
