"""Bundles: what is a member, in which order, how large; and files that are no bundles."""

import io
import tarfile
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota.formats import bundle, topics
from ota.formats.bundle import Contents, read_contents, read_reports
from ota.formats.chunks import CHUNK_MAX_BYTES
from ota.formats.deployment import DEPLOYMENT_LIMIT_BYTES
from ota.formats.manifest import MANIFEST_LIMIT_BYTES
from ota.formats.reasons import Reason, Refused
from ota.formats.trust import ROOT_LIMIT_BYTES

BLOB, OTHER = b"\x11" * 32, b"\x22" * 32
MESSAGES = [
    (topics.root(9), b"nine"),
    (topics.root(10), b"ten"),
    (topics.desired("123"), b"a group"),
    (topics.desired("lab"), b"another group"),
    (topics.device_desired("board-1"), b"a device"),
    (topics.manifest(BLOB), b"m" * 513),
    (topics.blob_index(BLOB), b"index"),
    *((topics.blob_chunk(BLOB, number), bytes((number,)) * 1024) for number in range(11)),
    (topics.blob_chunk(BLOB, 11), b"last"),
    (topics.blob_index(OTHER), b"other index"),
    (topics.blob_chunk(OTHER, 0), b"only"),
    ("ota/v1/crl", b"revoked"),
]


def packed(messages: list[tuple[str, bytes]]) -> bytes:
    made = io.BytesIO()
    size = bundle.pack([(topic, partial(bytes, payload)) for topic, payload in messages], made.write)
    assert size == len(made.getvalue())
    return made.getvalue()


class Counting:
    """A file that says how much of it was read."""

    def __init__(self, data: bytes) -> None:
        self.data, self.read_bytes = data, 0

    def read(self, offset: int, size: int) -> bytes:
        found = self.data[offset : offset + size]
        self.read_bytes += len(found)
        return found


def contents(data: bytes) -> Contents:
    return read_contents(Counting(data).read, len(data))


def refusal(data: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        contents(data)
    return caught.value


def entry(name: str, size: int = 0, **changes) -> bytes:
    made = tarfile.TarInfo(name)
    made.size = size
    for key, value in changes.items():
        setattr(made, key, value)
    return made.tobuf(tarfile.USTAR_FORMAT)


END = bytes(1024)


def test_everything_is_found_again_under_its_topic():
    data = packed(MESSAGES)
    found = contents(data)
    assert list(found.topics()) == [topic for topic, _ in MESSAGES]
    for topic, payload in MESSAGES:
        span = found.find(topic)
        assert data[span.offset : span.offset + span.size] == payload
    assert found.roots == [9, 10]
    for absent in (topics.root(8), topics.blob_chunk(BLOB, 12), topics.blob_chunk(b"\x33" * 32, 0), "root/9", "other"):
        assert found.find(absent) is None


def test_the_order_of_members_is_that_of_their_topics():
    assert sorted((topic for topic, _ in reversed(MESSAGES)), key=bundle.order) == [topic for topic, _ in MESSAGES]
    assert bundle.order("ota/v1/online/a/b") is None
    assert not bundle.is_member("root/1")


def test_tar_lists_a_bundle_and_makes_one(tmp_path):
    """Any tar(1) reads it, and what it makes of the same files in their order is a bundle too."""
    path = tmp_path / "a.bundle"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for topic, payload in MESSAGES:
            made = tarfile.TarInfo(topic.removeprefix("ota/v1/"))
            made.size, made.uname = len(payload), "somebody"
            archive.addfile(made, io.BytesIO(payload))
    assert path.stat().st_size % tarfile.RECORDSIZE == 0
    assert list(contents(path.read_bytes()).topics()) == [topic for topic, _ in MESSAGES]
    with tarfile.open(fileobj=io.BytesIO(packed(MESSAGES))) as archive:
        assert archive.getnames() == [topic.removeprefix("ota/v1/") for topic, _ in MESSAGES]
        assert {each.mode for each in archive} == {0o644}


def test_a_member_that_is_longer_than_the_file_is_refused_by_its_header():
    """One byte more than is there, and the highest number that a header holds."""
    for size in (len(END) + 1, 8**11 - 1):
        refused = refusal(entry("crl", size) + END)
        assert refused.reason is Reason.BUNDLE_TRUNCATED
        assert f"'crl' has {size} bytes, {len(END)} are there" in refused.detail
    second = refusal(entry("root/1", 3) + bytes(512) + entry("crl", len(END) + 1) + END)
    assert f"'crl' has {len(END) + 1} bytes, {len(END)} are there" in second.detail
    assert "'crl' has 5 bytes, 0 are there" in refusal(entry("crl", 5)).detail
    assert "no end" in refusal(entry("crl", len(END)) + END).detail  # as many as are there: it may be so, and the end lacks


def test_members_and_bundles_that_are_as_large_as_allowed_are_taken():
    whole = [(topics.manifest(BLOB), bytes(MANIFEST_LIMIT_BYTES)), (topics.blob_index(BLOB), b"index")]
    whole.append((topics.blob_chunk(BLOB, 0), bytes(CHUNK_MAX_BYTES)))
    assert list(contents(packed(whole)).topics()) == [topic for topic, _ in whole]
    data = packed(MESSAGES)
    for size, code in ((bundle.BUNDLE_LIMIT_BYTES, Reason.BUNDLE_INVALID), (bundle.BUNDLE_LIMIT_BYTES + 1, Reason.TOO_LARGE)):
        with pytest.raises(Refused) as caught:
            read_contents(Counting(data).read, size)
        assert caught.value.reason is code


def test_a_bundle_that_is_cut_off_is_refused():
    data = packed(MESSAGES)
    for length in (0, 1, 511, 512, 513, 700, 1024, len(data) // 2, len(data) - 1100, len(data) - 512, len(data) - 1):
        assert refusal(data[:length]).reason is Reason.BUNDLE_TRUNCATED, length


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("root/1", ROOT_LIMIT_BYTES),
        ("group/lab/desired", DEPLOYMENT_LIMIT_BYTES),
        (f"manifest/{BLOB.hex()}", MANIFEST_LIMIT_BYTES),
        (f"blob/{BLOB.hex()}/index", bundle.INDEX_LIMIT_BYTES),
        ("crl", bundle.CRL_LIMIT_BYTES),
    ],
)
def test_a_member_that_is_too_large_is_refused_by_its_header(name, limit):
    file = Counting(entry(name, limit + 1) + bytes(limit + 1024) + END)
    with pytest.raises(Refused) as caught:
        read_contents(file.read, len(file.data))
    assert caught.value.reason is Reason.TOO_LARGE
    assert file.read_bytes == 512


def test_a_chunk_that_is_too_large_is_refused():
    blob = f"blob/{BLOB.hex()}"
    size = CHUNK_MAX_BYTES + 512
    assert refusal(entry(f"{blob}/index") + entry(f"{blob}/0", size) + bytes(size) + END).reason is Reason.TOO_LARGE


@pytest.mark.parametrize("first", range(len(MESSAGES) - 1))
def test_a_member_out_of_order_is_refused(first):
    swapped = list(MESSAGES)
    swapped[first], swapped[first + 1] = swapped[first + 1], swapped[first]
    assert refusal(packed(swapped)).reason in (Reason.BUNDLE_INVALID, Reason.ROOT_NOT_NEXT)


@pytest.mark.parametrize("number", range(len(MESSAGES)))
def test_a_duplicate_member_is_refused(number):
    assert refusal(packed([*MESSAGES[: number + 1], *MESSAGES[number:]])).reason is Reason.BUNDLE_INVALID


def test_a_root_chain_that_jumps_is_refused():
    assert refusal(packed([(topics.root(1), b"1"), (topics.root(3), b"3")])).reason is Reason.ROOT_NOT_NEXT


@pytest.mark.parametrize("missing", [6, 7, 9])
def test_a_chunk_without_those_before_it_is_refused(missing):
    """The index, the first, one in the middle."""
    assert refusal(packed([each for number, each in enumerate(MESSAGES) if number != missing])).reason is Reason.BUNDLE_INVALID


@pytest.mark.parametrize(
    ("sizes", "taken"),
    [
        ((1024, 1), True), ((1024, 1024), True), ((1,), True), ((1024, 0), False), ((0,), False), ((1023, 1), False),
        ((1024, 1025), False), ((1024, 1, 1), False),
    ],
)  # fmt: skip
def test_all_chunks_but_the_last_have_one_size_that_chunks_may_have(sizes, taken):
    chunks = [(topics.blob_chunk(BLOB, number), bytes(size)) for number, size in enumerate(sizes)]
    data = packed([(topics.blob_index(BLOB), b"i"), *chunks])
    if not taken:
        assert refusal(data).reason is Reason.BUNDLE_INVALID
        return
    last = contents(data).find(chunks[-1][0])
    assert (last.size, last.offset) == (sizes[-1], len(data) - len(END) - (512 if sizes[-1] < 513 else 1024))


def test_a_shorter_chunk_in_the_middle_is_refused():
    changed = [(topic, b"short" if topic == topics.blob_chunk(BLOB, 4) else payload) for topic, payload in MESSAGES]
    assert refusal(packed(changed)).reason is Reason.BUNDLE_INVALID


@pytest.mark.parametrize(
    "name",
    [
        "/root/1",
        "./root/1",
        "root/../root/1",
        "../../etc/passwd",
        "root/0",
        "root/01",
        "root/1/",
        "group/../desired",
        "group/.hidden/desired",
        "group/a/b/desired",
        "device//desired",
        "device/board-1/report",
        "manifest/" + "A" * 64,
        "blob/" + "0" * 64 + "/01",
        "blob/" + "0" * 64 + "/-1",
        "crl/1",
        "a",
    ],
)
def test_a_path_that_is_no_topic_is_refused(name):
    assert refusal(entry(name) + END).reason is Reason.BUNDLE_INVALID


def test_reports_in_the_place_of_updates_are_told_as_such_and_the_other_way_round():
    held = "the file holds reports, and updates are expected: 'device/board-1/report' is in it"
    assert refusal(entry("device/board-1/report") + END).detail == held
    with pytest.raises(Refused, match="the file holds updates, and reports are expected: 'crl' is in it") as caught:
        bundle.read_reports(entry("crl") + END)
    assert caught.value.reason is Reason.BUNDLE_INVALID


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.LNKTYPE,
        tarfile.SYMTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.DIRTYPE,
        tarfile.FIFOTYPE,
        tarfile.CONTTYPE,
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
        tarfile.GNUTYPE_SPARSE,
    ],
)
def test_links_devices_and_extended_headers_are_refused(kind):
    assert refusal(entry("root/1", type=kind, linkname="/etc/passwd") + END).reason is Reason.BUNDLE_INVALID
    assert refusal(entry("root/1", type=kind) + END).reason is Reason.BUNDLE_INVALID


def test_a_file_that_names_another_one_as_a_link_does_is_refused():
    assert refusal(entry("root/1", linkname="/etc/passwd") + END).reason is Reason.BUNDLE_INVALID


def test_what_follows_the_end_is_refused():
    data = packed(MESSAGES)
    assert refusal(data + b"x").reason is Reason.BUNDLE_INVALID
    assert refusal(data + packed(MESSAGES)).reason is Reason.BUNDLE_INVALID
    assert refusal(data + bytes(100_000)).reason is Reason.BUNDLE_INVALID
    filled = data + bytes(2 * tarfile.RECORDSIZE - len(END))  # two records of zeros are its end
    assert list(contents(filled).topics()) == [topic for topic, _ in MESSAGES]
    assert refusal(filled + b"\0").reason is Reason.BUNDLE_INVALID


def test_endless_data_is_refused_without_being_read():
    def read(offset: int, size: int) -> bytes:
        raise AssertionError("nothing of it may be read")

    with pytest.raises(Refused) as caught:
        read_contents(read, bundle.BUNDLE_LIMIT_BYTES + 1)
    assert caught.value.reason is Reason.TOO_LARGE


def test_more_members_than_the_limit_are_refused():
    many = [(topics.desired(f"g{number:05}"), b"") for number in range(bundle.MEMBERS_LIMIT + 1)]
    assert refusal(packed(many)).reason is Reason.TOO_LARGE


def test_chunks_take_no_memory_each():
    """A blob of the smallest chunks is one entry, however many there are."""
    chunks = [(topics.blob_chunk(BLOB, number), b"c" * 1024) for number in range(5000)]
    found = contents(packed([(topics.blob_index(BLOB), b""), *chunks]))
    assert len(found._spans) + len(found._chunks) == 2
    assert found.find(topics.blob_chunk(BLOB, 4999)).size == 1024


def test_an_empty_bundle_is_refused():
    assert refusal(END).reason is Reason.BUNDLE_INVALID


@given(st.binary(max_size=3000))
def test_any_bytes_are_refused_by_a_reason(data):
    assert refusal(data).reason in (Reason.BUNDLE_INVALID, Reason.BUNDLE_TRUNCATED)


@given(st.integers(0, 511), st.integers(0, 255), st.integers(0, len(MESSAGES) - 1))
def test_a_damaged_header_is_refused_or_changes_nothing_but_itself(place, value, number):
    data = bytearray(packed(MESSAGES))
    span = contents(bytes(data)).find(MESSAGES[number][0])
    data[span.offset - 512 + place] = value
    try:
        found = contents(bytes(data))
    except Refused as error:
        assert error.reason in (Reason.BUNDLE_INVALID, Reason.BUNDLE_TRUNCATED, Reason.TOO_LARGE, Reason.ROOT_NOT_NEXT)
    else:
        assert len(list(found.topics())) == len(MESSAGES)


def test_reports_are_read_again_and_nothing_else_is():
    said = [(topics.instance_report("b", "x"), b"instance"), (topics.report("a"), b"board"), (topics.report("b"), b"board")]
    data = bundle.pack_reports(said)
    assert read_reports(data) == [said[1], said[2], said[0]]
    with pytest.raises(Refused):
        read_reports(packed(MESSAGES))
    with pytest.raises(Refused):
        contents(data)
