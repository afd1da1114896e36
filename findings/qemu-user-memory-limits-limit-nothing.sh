#!/usr/bin/env bash
# QEMU 7.2 user mode (Debian 12): limits of memory are accepted and do nothing.
#
# A good engineer would guess: setrlimit in an emulated program does what it does in any other, as it does for open files; what the emulator
#   can't do fails, as Landlock's calls do there (ENOSYS).
# What happens: RLIMIT_DATA and RLIMIT_AS of 64 MiB are set without an error, and 512 MiB are mapped afterwards, for AArch64, ARM and
#   RISC-V alike. Only who reads the limit back can tell: it is still unlimited. RLIMIT_NOFILE holds.
# Why it matters here: workers are bounded by RLIMIT_DATA. What is tested of that in user mode shows nothing, and a container of another
#   architecture, which is emulated like this, runs modules without the bound. The agent reads its limit back, and counts a lack of it
#   among the missing measures.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
package=$(apt-get download --print-uris qemu-user-static 2>/dev/null | awk '{print $2}')
case $package in qemu-user-static_*7.2+dfsg*) ;; *) echo "this is not Debian 12: $package"; exit 2 ;; esac
apt-get download -qq qemu-user-static 2>/dev/null
dpkg -x qemu-user-static*.deb root
cat > main.go <<'GO'
package main

import (
	"fmt"
	"os"
	"syscall"
)

const private = syscall.MAP_PRIVATE | syscall.MAP_ANON

func mapMuch() error {
	content, err := syscall.Mmap(-1, 0, 512<<20, syscall.PROT_READ|syscall.PROT_WRITE, private)
	if err == nil {
		syscall.Munmap(content)
	}
	return err
}

func openMany() (err error) {
	for i := 0; i < 20 && err == nil; i++ {
		_, err = os.Open("/dev/null")
	}
	return err
}

func try(name string, which int, limit uint64, beyond func() error) {
	var before, after syscall.Rlimit
	syscall.Getrlimit(which, &before)
	set := syscall.Setrlimit(which, &syscall.Rlimit{Cur: limit, Max: before.Max})
	syscall.Getrlimit(which, &after)
	held := beyond() != nil
	fmt.Printf("%s set %t, read back %t, held %t\n", name, set == nil, after.Cur == limit, held)
	syscall.Setrlimit(which, &before)
}

func main() {
	try("DATA", syscall.RLIMIT_DATA, 64<<20, mapMuch)
	try("AS", syscall.RLIMIT_AS, 64<<20, mapMuch)
	try("NOFILE", syscall.RLIMIT_NOFILE, 12, openMany)
}
GO
root/usr/bin/qemu-aarch64-static --version | head -1
status=0
for each in :amd64 qemu-aarch64-static:arm64 qemu-arm-static:arm qemu-riscv64-static:riscv64; do
    emulator=${each%:*}
    CGO_ENABLED=0 GOARCH=${each#*:} go build -o limits main.go
    said=$(${emulator:+root/usr/bin/$emulator} ./limits)
    printf '%s: %s\n' "${each#*:}${emulator:+ in QEMU}" "${said//$'\n'/; }"
    memory=${emulator:+'read back false, held false'}
    memory=${memory:-'read back true, held true'}
    [ "$said" = "DATA set true, $memory
AS set true, $memory
NOFILE set true, read back true, held true" ] || status=1
done
exit $status
# Seen on two runs, with qemu-user-static 7.2 (7.2+dfsg-7+deb12u18+b3), the same for arm64, arm and riscv64 in QEMU:
#   amd64: DATA set true, read back true, held true; AS set true, read back true, held true; NOFILE set true, read back true, held true
#   arm64 in QEMU: DATA set true, read back false, held false; AS set true, read back false, held false; NOFILE set true, read back true,
#     held true
