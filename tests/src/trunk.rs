//! A cable that carries several VLANs into the appliance, and the switch on its other end: frames
//! with a tag of ours go to the wire of that VLAN without it, and back. The switch is a program of
//! ours, because not every kernel can tag; the appliance's end is a device that socat holds.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::client::Frames;
use crate::namespace::Namespace;
use crate::process::{self, Background, eventually};

/// IEEE 802.1Q.
const TAGGED: [u8; 2] = [0x81, 0x00];

/// The cable. It is taken down with this value.
pub struct Trunk(#[expect(dead_code, reason = "ended on drop")] Background);

impl Trunk {
    /// The appliance's end.
    pub const DEVICE: &str = "trunk";

    /// Lays the cable into `machine`. For each bridge of `fabric`, the VLAN whose tag its frames have
    /// on the cable; none for frames without a tag.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn lay(
        machine: &Namespace,
        fabric: &Namespace,
        folder: &Path,
        vlans: &[(Option<u16>, &str)],
    ) -> Self {
        let [ours, theirs] = ["trunk.switch", "trunk.device"].map(|name| folder.join(name));
        let socket = Arc::new(UnixDatagram::bind(&ours).expect("the folder is ours"));
        let mut socat = machine.command("socat");
        socat.args(["-b", "65536"]);
        socat.arg(format!("TUN,tun-name={},tun-type=tap,iff-no-pi,up", Self::DEVICE));
        socat.arg(format!("UNIX-SENDTO:{},bind={}", ours.display(), theirs.display()));
        process::say_to(&mut socat, &folder.join("trunk.log"));
        let socat = Background::start(&mut socat);
        eventually(Duration::from_secs(5), || theirs.exists().then_some(()))
            .expect("socat made the device within 5 s");
        machine.shell(&format!("ethtool -K {} tx off gso off gro off tso off 2>&1", Self::DEVICE));

        let ports: Vec<_> = vlans
            .iter()
            .map(|&(vlan, bridge)| {
                let (port, own) = (format!("t.{bridge}"), format!("s.{bridge}"));
                fabric.ip(&format!(
                    "link add {port} type veth peer name {own}
                     link set {port} master {bridge} up
                     link set {own} up\n"
                ));
                for end in [&port, &own] {
                    fabric.shell(&format!(
                        "ethtool -K {end} tx off rx off gso off gro off tso off 2>&1"
                    ));
                }
                (vlan, Arc::new(Frames::all_on(fabric, &own)))
            })
            .collect();
        for (vlan, port) in ports.clone() {
            let (socket, theirs) = (socket.clone(), theirs.clone());
            thread::spawn(move || {
                let mut buffer = [0; 16_384];
                while let Ok(frame) = port.receive(&mut buffer) {
                    // The appliance may not be there, or not keep up: a cable has no memory.
                    let _ = socket.send_to(&tagged(frame, vlan), &theirs);
                }
            });
        }
        thread::spawn(move || {
            let mut buffer = [0; 16_384];
            while let Ok(length) = socket.recv(&mut buffer) {
                let (vlan, frame) = untagged(&buffer[..length]);
                let port = ports.iter().find(|(own, _)| *own == vlan);
                // As a switch does with VLANs that it does not know.
                let Some((_, port)) = port else { continue };
                port.send(&frame);
            }
        });
        Self(socat)
    }
}

/// The frame as it is on the cable.
fn tagged(frame: &[u8], vlan: Option<u16>) -> Vec<u8> {
    match (vlan, frame.split_at_checked(12)) {
        (Some(vlan), Some((stations, rest))) => {
            [stations, &TAGGED, &vlan.to_be_bytes(), rest].concat()
        }
        _ => frame.to_vec(),
    }
}

/// The frame as it is on its VLAN's wire, and which that is.
fn untagged(frame: &[u8]) -> (Option<u16>, Vec<u8>) {
    match frame.get(12..16) {
        Some(&[0x81, 0x00, high, low]) => {
            let vlan = u16::from_be_bytes([high, low]) & 0xfff; // the rest is priority
            (Some(vlan), [&frame[..12], &frame[16..]].concat())
        }
        _ => (None, frame.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_that_is_put_on_is_taken_off_again() {
        let frame: Vec<u8> = (0..60).collect();
        assert_eq!(untagged(&tagged(&frame, Some(7))), (Some(7), frame.clone()));
        assert_eq!(untagged(&tagged(&frame, None)), (None, frame));
    }
}
