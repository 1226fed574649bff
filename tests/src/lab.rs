//! The machines and the wires between them:
//!
//! ```text
//!   client .10   second client .11   dr1-dr3 .21-.23
//!      |                |                  |
//!   ===+================+===== wan ========+====+============+=====  10.1.0.0/24
//!                                               |            |
//!                                     appliance .2       router .1 ---- far client .10
//!                                               |            |    far, 10.4.0.0/24
//!   == lan == 10.2.0.0/24 ====+========= .2 ====+     .1 ====+==== remote == 10.3.0.0/24
//!                             |                              |
//!                      nat1-nat3 .11-.13             tun1-tun3 .11-.13
//! ```
//!
//! Every wire carries IPv6 as well, with addresses that read alike: beside 10.2.0.11 stands
//! 2001:db8:2::11 ([`ipv6`]). Packets to the far client may have [`FAR_MTU`] bytes.
//!
//! Direct servers answer clients over the wan wire, tunnelled ones through the router, translated
//! ones through the appliance. The appliance's kernel interfaces have no addresses, so that only
//! Sluice speaks there. Checksums and segments are never left to an interface: every frame on
//! these wires is as it would be on real ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::client::Client;
use crate::namespace::{self, Folder, Namespace};
use crate::server::{Kind, Server};
use crate::trunk::Trunk;

/// Where the direct servers are published.
pub const DIRECT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 100);
/// Where the translated servers are published.
pub const TRANSLATED: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 101);
/// Where the tunnelled servers are published.
pub const TUNNELLED: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 102);
/// Where servers of several kinds are published together.
pub const MIXED: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 103);
/// Where servers are published that see us as their client.
pub const PROXIED: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 104);
/// The appliance's own address on the clients' wire.
pub const APPLIANCE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
/// The appliance's own address on the translated servers' wire.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);
/// The router's address on the clients' wire.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);

/// How many bytes a packet to the far client may have.
pub const FAR_MTU: u16 = 1400;

/// The IPv6 address that stands beside an address of the laboratory: its second and last number,
/// read alike.
pub const fn ipv6(beside: Ipv4Addr) -> Ipv6Addr {
    const fn alike(number: u8) -> u16 {
        let number = number as u16;
        ((number / 100) << 8) | ((number / 10 % 10) << 4) | (number % 10)
    }
    let [_, wire, _, host] = beside.octets();
    Ipv6Addr::new(0x2001, 0xdb8, alike(wire), 0, 0, 0, 0, alike(host))
}

/// An address of the laboratory and the one beside it.
pub const fn both(address: Ipv4Addr) -> [IpAddr; 2] {
    [IpAddr::V4(address), IpAddr::V6(ipv6(address))]
}

/// One of a thousand more addresses, in four networks, that the far client has: it stands for as
/// many clients.
///
/// # Panics
/// If there is no such network.
pub fn somebody(network: u8, host: u8) -> Ipv4Addr {
    assert!(network < 4, "there are four networks");
    Ipv4Addr::new(10, 4, 8 + network, host)
}

/// Tells the laboratories of one process apart.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// All machines but the appliance's program.
pub struct Lab {
    // Taken down in this order: programs end before the wires go.
    trunk: Option<Trunk>,
    /// Two clients, 10.1.0.10 and 10.1.0.11.
    pub clients: [Client; 2],
    /// A client behind the router, 10.4.0.10, and behind a link for short packets.
    pub far: Client,
    /// Servers on the clients' wire, 10.1.0.21-23.
    pub direct: [Server; 3],
    /// Servers behind the appliance, 10.2.0.11-13.
    pub translated: [Server; 3],
    /// Servers behind the router, 10.3.0.11-13.
    pub tunnelled: [Server; 3],
    /// Between the clients' wire and the remote one.
    pub router: Namespace,
    /// Where the appliance runs, with the interfaces `wan` and `lan`.
    pub appliance: Namespace,
    /// The bridges, named `wan`, `lan`, `remote` and `far`.
    pub fabric: Namespace,
    folder: Folder,
}

impl Lab {
    /// Builds it, after removing what killed runs may have left.
    pub fn build() -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            namespace::remove_leftovers();
        }
        Self::named(&format!("{}.{number}", std::process::id()))
    }

    /// Builds it under a name of its own, which no other laboratory has.
    pub fn named(name: &str) -> Self {
        let folder = Folder::new(name);
        let fabric = Namespace::new(name, "fabric");
        let bridges = ["wan", "lan", "remote", "far"];
        // A wire hides no group's frames either.
        let add = |bridge| format!("link add {bridge} type bridge mcast_snooping 0\n");
        fabric.ip(&bridges.map(add).concat());
        fabric.ip(&bridges.map(|bridge| format!("link set {bridge} up\n")).concat());
        // A wire judges no packet. (The kernel's filter for bridges drops what is malformed.)
        fabric.shell(
            "for judge in /proc/sys/net/bridge/bridge-nf-call-*; do
                 if [ -e $judge ]; then echo 0 > $judge; fi
             done",
        );
        let wires = Wires { fabric: &fabric, name };

        let router = Namespace::new(name, "router");
        wires.connect(&router, "wan", "wan", Some(ROUTER), None);
        wires.connect(&router, "remote", "remote", Some([10, 3, 0, 1].into()), None);
        wires.connect(&router, "far", "far", Some([10, 4, 0, 1].into()), None);
        router.ip(&format!("link set far mtu {FAR_MTU}\n"));
        router.sysctl("net.ipv4.ip_forward", "1");
        router.sysctl("net.ipv6.conf.all.forwarding", "1");

        let appliance = Namespace::new(name, "appliance");
        wires.connect(&appliance, "wan", "wan", None, None);
        wires.connect(&appliance, "lan", "lan", None, None);

        let clients = [10, 11].map(|host| {
            let address = Ipv4Addr::new(10, 1, 0, host);
            let namespace = Namespace::new(name, &format!("client{host}"));
            wires.connect(&namespace, Client::LEG, "wan", Some(address), Some(ROUTER));
            Client { namespace, address }
        });
        let far = {
            let address = Ipv4Addr::new(10, 4, 0, 10);
            let namespace = Namespace::new(name, "far");
            let gateway = Ipv4Addr::new(10, 4, 0, 1);
            wires.connect(&namespace, Client::LEG, "far", Some(address), Some(gateway));
            namespace.ip("route add local 10.4.8.0/22 dev lo\n"); // see `somebody`
            router.ip(&format!("route add 10.4.8.0/22 via {address}\n"));
            Client { namespace, address }
        };
        let at = folder.path();
        let direct = wires.servers(Kind::Direct, at);
        let translated = wires.servers(Kind::Translated, at);
        let tunnelled = wires.servers(Kind::Tunnelled, at);
        Self {
            trunk: None,
            clients,
            far,
            direct,
            translated,
            tunnelled,
            router,
            appliance,
            fabric,
            folder,
        }
    }

    /// Lays a cable into the appliance that carries several wires: for each bridge, the VLAN whose tag
    /// its frames have on the cable; none for frames without a tag.
    pub fn lay_trunk(&mut self, vlans: &[(Option<u16>, &str)]) {
        let trunk = Trunk::lay(&self.appliance, &self.fabric, self.folder.path(), vlans);
        self.trunk = Some(trunk);
    }

    /// Where files of this laboratory go; removed with it.
    pub fn directory(&self) -> &Path {
        self.folder.path()
    }

    /// Every server there is.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        self.direct.iter().chain(&self.translated).chain(&self.tunnelled)
    }

    /// Leaves everything up when this value goes out of scope.
    pub fn keep(mut self) {
        self.fabric.keep();
        self.router.keep();
        self.appliance.keep();
        self.clients.iter_mut().for_each(|client| client.namespace.keep());
        self.far.namespace.keep();
        for server in self.direct.into_iter().chain(self.translated).chain(self.tunnelled) {
            server.keep();
        }
        self.folder.keep();
    }
}

/// Lays wires between machines and bridges.
struct Wires<'a> {
    fabric: &'a Namespace,
    name: &'a str,
}

impl Wires<'_> {
    /// Gives `machine` a leg on `bridge`. In the fabric, the other end is called `bridge.machine`.
    fn connect(
        &self,
        machine: &Namespace,
        leg: &str,
        bridge: &str,
        address: Option<Ipv4Addr>,
        gateway: Option<Ipv4Addr>,
    ) {
        let own = machine.name().rsplit('-').next().unwrap_or_default();
        let port = format!("{}.{own}", &bridge[..1]);
        let inside = machine.name();
        self.fabric.ip(&format!(
            "link add {port} type veth peer name {leg} netns {inside}
             link set {port} master {bridge} up\n"
        ));
        if let Some(address) = address {
            machine.speak_ipv6(leg);
            let beside = ipv6(address);
            machine.ip(&format!(
                "link set {leg} up
                 addr add {address}/24 dev {leg}
                 addr add {beside}/64 dev {leg} nodad\n"
            ));
        } else {
            machine.ip(&format!("link set {leg} up\n"));
        }
        if let Some(gateway) = gateway {
            let beside = ipv6(gateway);
            machine
                .ip(&format!("route add default via {gateway}\nroute add default via {beside}\n"));
        }
        for (namespace, end) in [(machine, leg), (self.fabric, port.as_str())] {
            namespace
                .shell(&format!("ethtool -K {end} tx off rx off gso off gro off tso off 2>&1"));
        }
    }

    fn servers(&self, kind: Kind, directory: &Path) -> [Server; 3] {
        let (stem, bridge, subnet, first, gateway) = match kind {
            Kind::Direct => ("dr", "wan", [10, 1, 0], 21, ROUTER),
            Kind::Translated => ("nat", "lan", [10, 2, 0], 11, GATEWAY),
            Kind::Tunnelled => ("tun", "remote", [10, 3, 0], 11, [10, 3, 0, 1].into()),
        };
        let virtual_addresses = match kind {
            Kind::Direct => [DIRECT, MIXED],
            Kind::Translated => [TRANSLATED, MIXED],
            Kind::Tunnelled => [TUNNELLED, MIXED],
        };
        [0, 1, 2].map(|index| {
            let name = format!("{stem}{}", index + 1);
            let [a, b, c] = subnet;
            let address = Ipv4Addr::new(a, b, c, first + index);
            let namespace = Namespace::new(self.name, &name);
            self.connect(&namespace, Server::LEG, bridge, Some(address), Some(gateway));
            Server::start(&name, address, kind, &virtual_addresses, namespace, directory)
        })
    }
}
