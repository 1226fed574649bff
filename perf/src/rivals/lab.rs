//! Three network namespaces in a row: a client, whatever balances, a server. Virtual wires between them, without any
//! offloading: what is measured must be done by somebody.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// The namespaces; removed on drop.
pub struct Lab {
    prefix: String,
}

/// Who lives in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// 192.0.2.10.
    Client,
    /// 192.0.2.2 and 10.0.0.2, unless the appliance has its interfaces.
    Balancer,
    /// 10.0.16.1.
    Server,
}

/// The balancer's interface towards clients, and that towards servers.
pub const INTERFACES: [&str; 2] = ["outside", "inside"];
/// The virtual address and port.
pub const SERVICE: &str = "198.51.100.1:1000";
/// Where the server listens.
pub const SERVER: &str = "10.0.16.1:8080";

/// The server's hardware address is the one that the scenario has for it.
const BUILD: &[&str] = &[
    "link add outside netns {balancer} type veth peer name wire netns {client}",
    "link add inside netns {balancer} type veth peer name wire netns {server}",
    "-n {client} address add 192.0.2.10/24 dev wire",
    "-n {server} link set wire address 02:00:0a:00:10:01",
    "-n {server} address add 10.0.16.1/16 dev wire",
    "-n {client} link set wire up",
    "-n {server} link set wire up",
    "-n {balancer} link set outside up",
    "-n {balancer} link set inside up",
    "-n {client} route add 198.51.100.0/24 via 192.0.2.2",
    "-n {server} route add default via 10.0.0.2",
];

/// For rivals: the kernel has addresses and forwards.
const ADDRESSES: &[&str] = &[
    "-n {balancer} link set lo up",
    "-n {balancer} address add 192.0.2.2/24 dev outside",
    "-n {balancer} address add 10.0.0.2/16 dev inside",
];

impl Lab {
    /// Builds it.
    ///
    /// # Errors
    /// If the kernel refuses; what there was already is removed.
    pub fn build() -> Result<Self> {
        let lab = Self { prefix: format!("sluice-perf-{}", std::process::id()) };
        for place in Place::ALL {
            run("ip", &["netns", "add", &lab.name(place)])?;
            lab.inside(place, "sysctl", &["-qw", "net.ipv6.conf.all.disable_ipv6=1"])?;
        }
        lab.ip(BUILD)?;
        let offloads = ["rx", "tx", "sg", "tso", "gso", "gro"];
        for (place, interface) in [
            (Place::Client, "wire"),
            (Place::Balancer, INTERFACES[0]),
            (Place::Balancer, INTERFACES[1]),
            (Place::Server, "wire"),
        ] {
            let mut arguments = vec!["-K", interface];
            arguments.extend(offloads.iter().flat_map(|offload| [*offload, "off"]));
            lab.inside(place, "ethtool", &arguments)?;
        }
        Ok(lab)
    }

    /// Gives the balancer's interfaces addresses of the kernel's, for a rival.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn give_addresses(&self) -> Result<()> {
        self.ip(ADDRESSES)?;
        self.inside(Place::Balancer, "sysctl", &["-qw", "net.ipv4.ip_forward=1"])
    }

    /// A command to be run in a namespace.
    pub fn command(&self, place: Place, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(place), program]);
        command
    }

    /// Runs a program in a namespace to its end.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn inside(&self, place: Place, program: &str, arguments: &[&str]) -> Result<()> {
        let name = self.name(place);
        let mut all = vec!["netns", "exec", &name, program];
        all.extend(arguments);
        run("ip", &all)
    }

    fn ip(&self, lines: &[&str]) -> Result<()> {
        for line in lines {
            let names = Place::ALL.map(|place| (place, self.name(place)));
            let filled = names.iter().fold((*line).to_owned(), |line, (place, name)| {
                line.replace(place.placeholder(), name)
            });
            run("ip", &filled.split(' ').collect::<Vec<_>>())?;
        }
        Ok(())
    }

    fn name(&self, place: Place) -> String {
        format!("{}-{}", self.prefix, place.placeholder().trim_matches(['{', '}']))
    }
}

impl Place {
    const ALL: [Self; 3] = [Self::Client, Self::Balancer, Self::Server];

    fn placeholder(self) -> &'static str {
        match self {
            Self::Client => "{client}",
            Self::Balancer => "{balancer}",
            Self::Server => "{server}",
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for place in Place::ALL {
            let _ = Command::new("ip").args(["netns", "delete", &self.name(place)]).output();
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("starting {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    bail!("{program} {}: {said}", arguments.join(" "))
}
