"""Each mend of WAMR that a value tells of on this processor makes a difference: WAMR without any mend is built beside ours."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pywamr
from ota.author.aot import host_target
from tests.conftest import ROOT
from tests.support.aot import aotc
from tests.support.cache import locked
from tests.support.mends import NOT_SHOWN, SHOWN

BUILD = ROOT / "build" / "unmended"
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
EXPECTED = {
    "wamr_fix_null_in_segments": "Trap",
    "wamr_keep_pages": 2,
    "wamr_take_zeros_in_names": 4,
    "wamr_ignore_bad_names": 5,
    "wamr_fix_beginning": 0,
    "wamr_fix_stack_pointer": 70000,
    "wamr_fix_full_memory": 0x64636261,
    "wamr_fix_vector_blocks": [7, 4],
    "wamr_fix_vector_results": [7, 4],
    "wamr_fix_vector_moves": [7, 4],
    "wamr_fix_block_ends": [5, 10],
    "wamr_keep_fuel": 3,
    "wamr_count_branches_only": 3,
    "wamr_fix_simde": 1,
    "wamr_fold_constants": 7,
    "wamr_leave_start": 1,
    "wamr_tell_places": [[0, 37], [1, 41]],
    "wamr_hold_accesses": "Trap",
    "wamr_settle_calls": [0, 6765],
    "wamr_push_frames_inline": [0, 0, 6765, 7],
    "wamr_align_code": 64,
    "wamr_check_stack_inside": [0, 6765],
    "wamr_fix_vector_nan": 0x7FE00000,
}


def looked_at(library: Path, compiler: Path) -> dict[str, object]:
    command = [sys.executable, "-m", "tests.support.mends", str(library), str(compiler)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def source() -> Path:
    """WAMR's source tree as it comes."""
    cache = ROOT / "build" / "wheel" / "CMakeCache.txt"
    if not cache.exists():
        pytest.skip("the native part was not built below build/wheel")
    origin = re.search(r"^WAMR_ROOT_DIR:[A-Z]+=(.+)$", cache.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return Path(origin[1]) if origin else ROOT / "build" / "wheel" / "vendor" / "wamrx-sys" / "wasm-micro-runtime"


def tried(root: Path, folder: Path) -> dict[str, str]:
    """What CMake says of each mend for a source tree."""
    folder.mkdir()
    script = ROOT / "native" / "cmake" / "wamr_source.cmake"
    command = ["cmake", "-DWAMR_TRY=ON", f"-DWAMR_ROOT_DIR={root}", "-P", str(script)]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    return dict(line.split(": ", 1) for line in done.stderr.splitlines())


def test_for_another_wamr_it_is_said_which_mends_apply(tmp_path):
    root = tmp_path / "wamr"
    for name in ("core", "build-scripts"):
        shutil.copytree(source() / name, root / name)
    shutil.copyfile(source() / "LICENSE", root / "LICENSE")
    assert set(tried(root, tmp_path / "as it is").values()) == {"applies"}
    runtime = root / "core" / "iwasm" / "interpreter" / "wasm_runtime.c"
    text = runtime.read_text(encoding="utf-8")
    segments = text.index("case INIT_EXPR_TYPE_REFNULL_CONST:\n                    ref = NULL;")
    runtime.write_text(text[:segments] + text[segments:].replace("ref = NULL;", "ref = (void *)(uintptr_t)NULL_REF;", 1))
    frames = root / "core" / "iwasm" / "interpreter" / "wasm_interp.h"
    frames.write_text(frames.read_text(encoding="utf-8").replace("align_uint(frame_size, 4)", "align_uint(frame_size, 16)"))
    found = tried(root, tmp_path / "another")
    assert found.pop("wamr_fix_null_in_segments") == "is there already, at least in part"
    assert found.pop("wamr_align_frames").startswith("lines are gone of ")
    assert set(found.values()) == {"applies"}


@pytest.fixture(scope="module")
def unmended() -> Path:
    """WAMR as it comes, in our flags: the folder of the build."""
    configure = ["cmake", "-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}"]
    configure += ["-DWAMR_WITHOUT=ALL", "-DPW_AOTC=ON", f"-DWAMR_ROOT_DIR={source()}"]
    with locked("unmended"):
        for command in (configure, ["cmake", "--build", str(BUILD)]):
            done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return BUILD / "native"


def test_every_mend_is_shown_or_it_is_said_why_not():
    mends = (ROOT / "native" / "cmake" / "wamr_source.cmake").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^set\(WAMR_MENDS\n(.*?)\)", mends, flags=re.MULTILINE | re.DOTALL)
    assert set(listed.split()) == SHOWN.keys() | NOT_SHOWN.keys()
    assert not SHOWN.keys() & NOT_SHOWN.keys()
    assert SHOWN.keys() == EXPECTED.keys()


@pytest.mark.skipif(aotc() is None, reason="wamr_aotc is not built: make aotc")
@pytest.mark.skipif(host_target() != "x86_64", reason="some of it is about x86-64")
def test_with_the_mends_all_is_as_it_should_be():
    folder = next(Path(place) for place in pywamr.__path__ if (Path(place) / "libwamr_core.so").exists())
    assert looked_at(folder, aotc()) == EXPECTED


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.skipif(aotc() is None, reason="wamr_aotc is not built: make aotc")
@pytest.mark.skipif(host_target() != "x86_64", reason="some of it is about x86-64")
def test_without_the_mends_nothing_of_it_is(unmended):
    found = looked_at(unmended / "core", unmended / "aotc" / "wamr_aotc")
    assert [mend for mend, value in found.items() if value == EXPECTED[mend]] == []
    assert found["wamr_fold_constants"] == "LoadError"  # it is this build that was looked at, and it works
