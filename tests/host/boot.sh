#!/bin/bash
# What the tests in this folder share: Debian's own kernel, booted in QEMU (without KVM, so that it
# runs anywhere) with an initramfs made here. Sourced by boot-host-test, boot-pci-test and boot-agent-test, which
# set `test` (what this test calls itself), `cache` and `work`, and `kernel` before they boot.
#
# packages: qemu-system-x86 busybox-static cpio kmod xz-utils

# shellcheck disable=SC2154 # set by the test
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

modules="e1000e virtio_pci virtio_net vfio-pci vfio_iommu_type1 uio_pci_generic veth ipip"

# Debian's kernel and the modules that the tests need, unpacked once per kernel version.
unpacked_kernel() {
    local package folder version
    package=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
    [ -n "$package" ] || fail "apt knows no linux-image-amd64; run apt-get update"
    version=${package#linux-image-}
    folder=$cache/$version
    # Complete with other modules is not complete.
    if [ "$(cat "$folder/complete" 2>/dev/null)" != "$modules" ]; then
        echo "$test: fetching $package (70 MB, once)" >&2
        rm -rf "$folder"
        mkdir -p "$folder/all"
        (cd "$folder" && apt-get download -q "$package" >&2) || fail "could not download $package"
        dpkg-deb --fsys-tarfile "$folder"/*.deb | tar -x -C "$folder/all" ./boot ./lib/modules
        find "$folder/all" -name '*.ko.xz' -exec unxz {} +
        depmod -b "$folder/all" "$version"
        local files file
        files=$(for module in $modules; do
            modprobe -d "$folder/all" -S "$version" --show-depends "$module"
        done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | sort -u)
        for file in $files; do
            install -D -m 644 "$file" "$folder/root${file#"$folder/all"}"
        done
        cp "$folder/all/lib/modules/$version"/modules.{order,builtin,builtin.modinfo} "$folder/root/lib/modules/$version/"
        depmod -b "$folder/root" "$version"
        cp "$folder/all/boot/vmlinuz-$version" "$folder/vmlinuz"
        rm -rf "$folder/all" "$folder"/*.deb
        echo "$modules" > "$folder/complete"
    fi
    echo "$folder"
}

# The kernel's modules, busybox and an init, in a folder to which the test adds what it needs.
make_root() { # make_root KERNEL INIT
    root=$work/root
    mkdir -p "$root"/{bin,proc,sys,dev,run,tmp}
    cp -r "$1/root/." "$root/"
    cp "$(command -v busybox)" "$root/bin/busybox"
    install -m 644 "$here/guest.sh" "$root/guest.sh"
    install -m 755 "$2" "$root/init"
}

pack_root() {
    (cd "$root" && find . | cpio --quiet -o -H newc | gzip -1) > "$work/initrd"
}

# Boots, shows what was checked, and fails unless the guest's verdict is that all of it passed.
boot() { # boot NAME SECONDS APPEND QEMU-ARGUMENT…
    local name=$1 seconds=$2 append=$3 console=$work/$1.console
    shift 3
    SECONDS=0
    timeout "$seconds" qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu max -smp 2 -m 1536 \
        -nodefaults -display none -no-reboot -serial "file:$console" \
        -kernel "$kernel/vmlinuz" -initrd "$work/initrd" \
        -append "console=ttyS0 panic=1 quiet isolcpus=1 host_test=$name $append" \
        "$@" < /dev/null || fail "boot $name did not end in time:" "$console"
    tr -d '\r' < "$console" | grep -aE '^(ok|FAIL|killed)' || true
    tr -d '\r' < "$console" | grep -aqx "VERDICT $name: passed" || fail "boot $name failed; its console:" "$console"
    echo "$test: boot $name passed in ${SECONDS} s"
}

fail() {
    echo "$test: $1" >&2
    [ -z "${2:-}" ] || cat "$2" >&2
    exit 1
}
