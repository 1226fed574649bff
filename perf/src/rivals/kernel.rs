//! nftables against our NAT, HAProxy against our SNAT, with real clients and servers on the kernel's own interfaces.
//! Clients, servers and balancer share the machine's cores, so a figure says how the whole of it does, and the
//! quotient who leaves more to the others.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::lab::{INTERFACES, Lab, Place, SERVER, SERVICE};
use super::peer::Manner;
use crate::ground::Memory;
use crate::interrupt;
use crate::outcome::Outcome;
use crate::results::{Record, Spread};
use crate::traffic::{Family, Mode, Scene};
use crate::wire::Effort;
use crate::wire::outside::{Appliance, Polling, Process, folder};

/// Who balances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Balancer {
    Sluice(Mode),
    /// Translates the destination, and with `true` the source too.
    Nftables(bool),
    Haproxy,
}

impl Balancer {
    fn rival(self) -> Option<String> {
        match self {
            Self::Sluice(_) => None,
            Self::Nftables(false) => Some("nftables dnat".into()),
            Self::Nftables(true) => Some("nftables dnat and masquerade".into()),
            Self::Haproxy => Some("haproxy tcp".into()),
        }
    }
}

/// Ours, and with whom it is compared.
const COMPARED: [(Mode, &[Balancer]); 2] = [
    (Mode::Nat, &[Balancer::Nftables(false)]),
    (Mode::Snat, &[Balancer::Nftables(true), Balancer::Haproxy]),
];

/// Measures both sides.
///
/// # Errors
/// If a balancer cannot be started, or somebody interrupts.
pub fn run(effort: Effort, outcome: &mut Outcome) -> Result<()> {
    let runs = if effort.quick { 1 } else { 3 };
    for (mode, rivals) in COMPARED {
        let ours = measured(Balancer::Sluice(mode), effort, runs)?;
        for (manner, rates) in &ours {
            outcome.add(record(*manner, mode, None, *rates, None));
        }
        for &rival in rivals {
            for ((manner, rates), (_, own)) in measured(rival, effort, runs)?.into_iter().zip(&ours)
            {
                let ratio = own.median / rates.median;
                outcome.add(record(manner, mode, rival.rival(), rates, Some(ratio)));
            }
        }
    }
    Ok(())
}

/// `ratio` is ours divided by the rival's.
fn record(
    manner: Manner,
    mode: Mode,
    rival: Option<String>,
    rates: Spread,
    ratio: Option<f64>,
) -> Record {
    Record {
        suite: "rivals".into(),
        case: manner.name().into(),
        mode: Some(mode),
        family: Some(Family::Ipv4),
        link: Some("veth".into()),
        rival,
        per_second: Some(rates),
        ratio,
        ..Record::default()
    }
}

/// Answers a second in either manner with this balancer in the middle of a laboratory of its own.
fn measured(balancer: Balancer, effort: Effort, runs: usize) -> Result<Vec<(Manner, Spread)>> {
    let lab = Lab::build()?;
    let mut server = lab.command(Place::Server, &own_program()?);
    server.args(["peer", "serve", SERVER]);
    let _server = Process::start(server, folder()?)?;
    let mut device = start(balancer, &lab, effort)?;
    let seconds = effort.seconds.max(0.5);
    let mut all = Vec::new();
    for manner in [Manner::Requests, Manner::Connections] {
        let mut rates = Vec::new();
        for _ in 0..runs {
            interrupt::check()?;
            let asked = ask(&lab, manner, seconds);
            if let Some(device) = &mut device {
                device.check()?; // says more than that nobody answers
            }
            rates.push(asked?);
        }
        all.push((manner, Spread::of(rates)));
    }
    Ok(all)
}

fn own_program() -> Result<String> {
    Ok(std::env::current_exe()?.display().to_string())
}

/// The client's count.
fn ask(lab: &Lab, manner: Manner, seconds: f64) -> Result<f64> {
    let mut client: Command = lab.command(Place::Client, &own_program()?);
    client.args(["peer", "load", SERVICE, "--manner", manner.name(), "--seconds"]);
    let output = client.arg(seconds.to_string()).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match said.parse() {
        Ok(rate) if output.status.success() => Ok(rate),
        _ => bail!("the client: {}", String::from_utf8_lossy(&output.stderr).trim()),
    }
}

/// What balances; the kernel needs no process for it.
fn start(balancer: Balancer, lab: &Lab, effort: Effort) -> Result<Option<Process>> {
    match balancer {
        Balancer::Sluice(mode) => {
            let scene =
                Scene { mode, family: Family::Ipv4, flows: 100_000, services: 1, servers: 1 };
            let appliance = Appliance {
                scene,
                core: effort.core,
                polling: Polling::Adaptive,
                memory: Memory::Plain,
            };
            let devices = INTERFACES.map(|name| format!("kernel:{name}"));
            let within = |program: &str| lab.command(Place::Balancer, program);
            appliance.start_on([&devices[0], &devices[1]], folder()?, within).map(Some)
        }
        Balancer::Nftables(masquerades) => {
            lab.give_addresses()?;
            lab.inside(Place::Balancer, "nft", &[&rules(masquerades)]).map(|()| None)
        }
        Balancer::Haproxy => {
            lab.give_addresses()?;
            let address = SERVICE.split(':').next().unwrap_or_default();
            let local = format!("{address}/32");
            lab.inside(Place::Balancer, "ip", &["address", "add", &local, "dev", "lo"])?;
            let folder = folder()?;
            let file = folder.join("haproxy.cfg");
            fs::write(&file, proxy()).context("writing haproxy.cfg")?;
            let mut command = lab.command(Place::Balancer, "haproxy");
            command.arg("-db").arg("-f").arg(&file);
            Process::start(command, folder).map(Some)
        }
    }
}

fn rules(masquerades: bool) -> String {
    let (address, port) = SERVICE.split_once(':').unwrap_or_default();
    let back = if masquerades { "oifname inside masquerade" } else { "" };
    format!(
        "table ip balance {{\nchain in {{\ntype nat hook prerouting priority dstnat;\n\
         ip daddr {address} tcp dport {port} dnat to {SERVER}\n}}\n\
         chain out {{\ntype nat hook postrouting priority srcnat;\n{back}\n}}\n}}\n"
    )
}

/// One thread, as the appliance has one worker.
fn proxy() -> String {
    format!(
        "global\n  nbthread 1\n  maxconn 5000\ndefaults\n  mode tcp\n  timeout connect 5s\n  \
         timeout client 30s\n  timeout server 30s\nlisten balance\n  bind {SERVICE}\n  \
         server one {SERVER}\n"
    )
}
