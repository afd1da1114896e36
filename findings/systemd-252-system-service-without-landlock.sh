#!/usr/bin/env bash
# systemd 252 (Debian 12): SystemCallFilter=@system-service does not hold Landlock's three calls.
#
# A good engineer would guess: the group that systemd recommends for services holds the calls by which a service *gives up* rights.
# What happens: the three calls are missing from the group, so such a filter refuses them, and a service that sandboxes itself where it can
#   goes on without its file restrictions. The group @sandbox, which later versions have for them, is not known to 252.
# Why it matters here: the agent confines its workers by Landlock, in a unit that is hardened by this very filter. A unit has to name the
#   three calls one by one, which every version takes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# The package of Debian 12, unpacked and not installed. systemd-analyze needs libraries that every Debian has.
cd "$folder"
package=$(apt-get download --print-uris systemd 2>/dev/null | awk '{print $2}')
case $package in systemd_252.*) ;; *) echo "this is not Debian 12: $package"; exit 2 ;; esac
apt-get download -qq systemd libsystemd-shared libsystemd0 2>/dev/null
for each in *.deb; do dpkg -x "$each" root; done
analyze() { LD_LIBRARY_PATH=$(find root -name 'libsystemd*.so*' -printf '%h:' | sort -u) root/usr/bin/systemd-analyze "$@"; }
analyze --version | head -1
analyze syscall-filter @system-service > group
calls=$(sed 's/^ *//' group; for each in $(grep -o '@[a-z-]*' group | sort -u); do [ "$each" = @system-service ] || analyze syscall-filter "$each"; done)
missing=0
for call in landlock_create_ruleset landlock_add_rule landlock_restrict_self; do
    if grep -qw "$call" <<< "$calls"; then echo "@system-service holds $call"; else echo "@system-service does not hold $call"; missing=$((missing + 1)); fi
done
analyze syscall-filter @sandbox > sandbox 2>&1 && known=yes || known=no
echo "@sandbox known: $known"
[ "$missing" = 3 ] && [ "$known" = no ]
# Seen with systemd 252 (252.39-1~deb12u2):
#   @system-service does not hold landlock_create_ruleset
#   @system-service does not hold landlock_add_rule
#   @system-service does not hold landlock_restrict_self
#   @sandbox known: no
