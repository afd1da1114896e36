#!/bin/sh
# Installs, with apt, what the build needs and this machine lacks. Debian 12 and 13; elsewhere it says what is missing.
#   native/install-tools.sh [test] [full] [aotc] [cross] [boards] [bench]
set -eu

# One at a time.
mkdir -p build
exec 9>build/.apt-lock
flock 9

wanted=""
parts=" $* "
for_part() { # for_part NAME: whether it was asked for
    case $parts in *" $1 "*) return 0 ;; esac
    return 1
}
need() { # need COMMAND PACKAGE
    command -v "$1" >/dev/null 2>&1 || wanted="$wanted $2"
}

# The lock file of the pinned source needs a cargo of 2024 or later; Debian 12 has one under another package name.
cargo_package=cargo
if [ -r /etc/os-release ] && . /etc/os-release && [ "${VERSION_ID:-}" = 12 ]; then
    cargo_package=cargo-web
fi

need gcc "gcc libc6-dev"
need cargo "$cargo_package"
need git git
python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || wanted="$wanted python3-venv"
if for_part test; then
    PATH="$PATH:/usr/sbin:/sbin" need mosquitto mosquitto
    need mosquitto_sub mosquitto-clients
    PATH="$PATH:/usr/sbin:/sbin" need ip iproute2
    need ccache ccache
    need softhsm2-util softhsm2
    need docker-registry docker-registry
    need ssh-agent openssh-client
    need objdump binutils
    # The fuzzer: any clang from 14 on, with the runtime of its sanitizers.
    ls /usr/bin/clang-1[4-9] >/dev/null 2>&1 || wanted="$wanted clang-19 libclang-rt-19-dev"
    # Rust for WebAssembly, where Debian 12's newer Rust, which has none, is not in its place.
    if [ ! -d /usr/lib/rustlib/wasm32-unknown-unknown ] && ! dpkg -s rustc-web >/dev/null 2>&1; then
        case $wanted in *cargo-web*) ;; *) wanted="$wanted rustc libstd-rust-dev-wasm32 lld" ;; esac
    fi
fi
if for_part full; then
    # Debian 12's Rust for WebAssembly needs the cargo of its own version, where the newer one is not in its place.
    if [ -d /usr/lib/rustlib/wasm32-unknown-unknown ] && ! dpkg -s cargo-web >/dev/null 2>&1; then
        [ -x /usr/bin/cargo ] || wanted="$wanted cargo"
    fi
    # Crates for components need a newer Rust than Debian 12 has for WebAssembly; a test without it says so.
    if command -v rustup >/dev/null 2>&1; then rustup --quiet target add wasm32-unknown-unknown wasm32-wasip2 || true; fi
    # A TPM that swtpm emulates, behind its resource manager, which is reached over D-Bus.
    need swtpm swtpm
    PATH="$PATH:/usr/sbin:/sbin" need tpm2-abrmd "tpm2-abrmd libtss2-tcti-tabrmd0 dbus"
    need tpm2_ptool "libtpm2-pkcs11-1 libtpm2-pkcs11-tools tpm2-tools"
fi
if for_part aotc; then
    need g++ g++
    # Any of LLVM 14 to 19 will do; of those, 19 makes the fastest code.
    [ -d /usr/lib/llvm-19/include/llvm-c ] || wanted="$wanted llvm-19-dev"
    [ -f /usr/include/jemalloc/jemalloc.h ] || wanted="$wanted libjemalloc-dev"
fi
if for_part cross; then
    need aarch64-linux-gnu-gcc "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
    need arm-linux-gnueabihf-gcc "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross"
    need riscv64-linux-gnu-gcc "gcc-riscv64-linux-gnu libc6-dev-riscv64-cross"
fi
if for_part boards; then
    # Debian 13 has RISC-V in a package of its own.
    riscv=qemu-system-misc
    if [ "${VERSION_ID:-13}" != 12 ]; then riscv=qemu-system-riscv; fi
    need qemu-system-arm qemu-system-arm
    need qemu-system-riscv64 "$riscv"
    need qemu-img qemu-utils
    need ssh-keygen openssh-client
    PATH="$PATH:/usr/sbin:/sbin" need mkfs.ext4 e2fsprogs
    need dpkg-deb dpkg
fi
if for_part bench; then
    need g++ g++
    need qemu-x86_64 qemu-user # it counts instructions
fi
[ -n "$wanted" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "please install:$wanted" >&2
    exit 1
fi
sudo=""
[ "$(id -u)" = 0 ] || sudo=sudo
echo "installing:$wanted"
$sudo apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $wanted >/dev/null
