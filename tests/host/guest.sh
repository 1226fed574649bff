#!/bin/busybox sh
# shellcheck shell=dash disable=SC2034,SC2086 # used by what follows; PCI addresses have no spaces
# The beginning of PID 1 in the guests of boot-host-test, boot-pci-test and boot-agent-test, and what their checks
# are made of. Looks at the kernel past the program under test: driver links, nr_hugepages and
# mounts are read here, with busybox.
/bin/busybox mount -t devtmpfs dev /dev
exec < /dev/console > /dev/console 2>&1
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys

E1000E=0000:00:04.0
VIRTIO=0000:00:05.0
boot=$(sed -n 's/.*host_test=\([a-z]*\).*/\1/p' /proc/cmdline)
failed=0
case $boot in
    iommu) ours=vfio-pci ;;
    plain) ours=uio_pci_generic ;;
esac

check() { # check 'what is true' command…
    what=$1
    shift
    if "$@"; then echo "ok: $boot: $what"; else echo "FAIL: $boot: $what"; failed=1; fi
}
not() { ! "$@"; }
driver() { basename "$(readlink "/sys/bus/pci/devices/$1/driver" || echo none)"; }
override() { cat "/sys/bus/pci/devices/$1/driver_override"; }
pages() { cat /proc/sys/vm/nr_hugepages; }
interface() {
    for found in /sys/bus/pci/devices/"$1"/net/* /sys/bus/pci/devices/"$1"/virtio*/net/*; do
        [ ! -e "$found" ] || { basename "$found"; return; }
    done
}
is() { [ "$1" = "$2" ] || { echo "expected $2, found $1"; return 1; }; }
bound() { is "$(driver $E1000E) $(driver $VIRTIO)" "$1 $2"; }
says() { grep -qF -- "$1" /run/said || { echo "expected: $1"; cat /run/said; return 1; }; }
cards_as_found() {
    bound e1000e virtio-pci && is "$(override $E1000E) $(override $VIRTIO)" "(null) (null)" &&
        [ -n "$(interface $E1000E)" ] && [ -n "$(interface $VIRTIO)" ]
}

verdict() {
    if [ $failed = 0 ]; then echo "VERDICT $boot: passed"; else echo "VERDICT $boot: failed"; fi
    sync
    poweroff -f
}
