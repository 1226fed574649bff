//! An agent from its start to its end: it says how idle the server is, once a second measured anew; after
//! SIGTERM it asks for drain, and then goes.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::arguments::{Fix, Idle, Listen, Run, Tunnels};
use crate::decapsulate::{Decapsulator, Rules};
use crate::error::Error;
use crate::fix::{fix, unfix};
use crate::idle::Sampler;
use crate::record::{Change, Record};
use crate::serve::{Desk, Kind, Saying};

/// How often idleness is measured, and for how long it is looked at.
const WINDOW: Duration = Duration::from_secs(1);
/// The same for whoever waits for the answer.
const SHORT_WINDOW: Duration = Duration::from_millis(300);
const PROC: &str = "/proc";

/// The number, after a short look.
pub fn once(idle: Idle) -> String {
    let mut sampler = Sampler::new(idle.mix, idle.service, Path::new(PROC));
    thread::sleep(SHORT_WINDOW);
    Saying::Idle(sampler.idle()).plain()
}

/// SIGTERM and SIGINT as something to wait for. To be called before any thread is started.
///
/// # Errors
/// When the kernel has no room for it.
fn signals() -> Result<SignalFd, Error> {
    let mut wanted = SigSet::empty();
    wanted.add(Signal::SIGTERM);
    wanted.add(Signal::SIGINT);
    wanted.thread_block().map_err(Error::System)?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    SignalFd::with_flags(&wanted, flags).map_err(Error::System)
}

/// Says how idle the server is until it is told to end, and has drained.
///
/// # Errors
/// When a port cannot be had, or the server cannot be prepared. What was changed is undone.
pub fn run(wanted: Run, tell: fn(&str)) -> Result<(), Error> {
    let signals = signals()?;
    let ports = ports(&wanted)?;
    let Run { idle, drain, fix, tunnels, decapsulate, .. } = wanted;
    prepared(&fix, "run", tell, |record| {
        if decapsulate {
            let decapsulator = open(&fix, &tunnels, record, tell)?;
            // Until this process ends; if it cannot wait any more, packets are lost and checks say so.
            thread::spawn(move || decapsulator.run(None));
        }
        let desk = Desk::new(ports, tunnels.from);
        let desk = desk.map_err(|why| Error::Kernel { path: "socket".into(), why })?;
        serve(desk, idle, drain, &signals, tell)
    })
}

/// Takes packets out of tunnels until it is told to end.
///
/// # Errors
/// As for [`run`].
pub fn decapsulate(fix: &Fix, tunnels: &Tunnels, tell: fn(&str)) -> Result<(), Error> {
    let signals = signals()?;
    prepared(fix, "decapsulate", tell, |record| {
        let decapsulator = open(fix, tunnels, record, tell)?;
        tell("taking packets out of tunnels");
        decapsulator.run(Some(signals.as_fd())).map_err(Error::System)
    })
}

fn open(
    fix: &Fix,
    tunnels: &Tunnels,
    record: &mut Record,
    tell: fn(&str),
) -> Result<Decapsulator, Error> {
    let to = fix.addresses.iter().copied().collect();
    let rules = Rules { to, from: tunnels.from.iter().copied().collect() };
    let told = |change: &Change| tell(&change.told());
    Decapsulator::open(rules, tunnels.gue_port, tunnels.method, record, told)
}

/// Solves the ARP problem, works, and undoes what was done, also when the work failed, or when an earlier
/// process under that name was killed.
fn prepared(
    wanted: &Fix,
    name: &str,
    tell: fn(&str),
    work: impl FnOnce(&mut Record) -> Result<(), Error>,
) -> Result<(), Error> {
    if wanted.addresses.is_empty() {
        return work(&mut Record::open(&wanted.state, name)?);
    }
    let mut record = Record::open(&wanted.state, name)?;
    let told = |change: &Change| tell(&change.told());
    let outcome =
        fix(&wanted.addresses, &wanted.devices, &mut record, told).and_then(|()| work(&mut record));
    let undone = unfix(&wanted.state, name, |change| tell(&format!("undone: {}", change.told())));
    outcome.and(undone)
}

fn ports(wanted: &Run) -> Result<Vec<(TcpListener, Kind)>, Error> {
    let plain = match wanted.listen {
        Listen::At(at) => listen(at)?,
        Listen::Stdin => stdin()?,
    };
    let http = wanted.http.map(listen).transpose()?;
    let http = http.map(|port| (port, Kind::Http));
    Ok([(plain, Kind::Plain)].into_iter().chain(http).collect())
}

/// Any address means both families, or IPv4 alone where there is no other.
fn listen(at: SocketAddr) -> Result<TcpListener, Error> {
    let bound =
        TcpListener::bind(at).or_else(|why| match at.ip().is_unspecified() && at.is_ipv6() {
            true if why.kind() != std::io::ErrorKind::AddrInUse => {
                TcpListener::bind(("0.0.0.0", at.port()))
            }
            _ => Err(why),
        });
    bound.map_err(|why| Error::Listen { at, why })
}

/// Only a copy of standard input can be owned; the original stays open, which does no harm.
fn stdin() -> Result<TcpListener, Error> {
    let own = std::io::stdin().as_fd().try_clone_to_owned().map_err(Error::NoSocket)?;
    let socket = socket2::Socket::from(own);
    match socket.is_listener() {
        Ok(true) => Ok(socket.into()),
        Ok(false) => Err(Error::NoSocket(std::io::ErrorKind::NotConnected.into())),
        Err(why) => Err(Error::NoSocket(why)),
    }
}

fn serve(
    mut desk: Desk,
    idle: Idle,
    drain: Duration,
    signals: &SignalFd,
    tell: fn(&str),
) -> Result<(), Error> {
    let service = idle.service.clone();
    let mut sampler = Sampler::new(idle.mix, idle.service, Path::new(PROC));
    let mut measured = sampler.idle();
    let mut next = Instant::now() + WINDOW;
    let mut ends: Option<Instant> = None;
    loop {
        let saying = if ends.is_some() { Saying::Drain } else { Saying::Idle(measured) };
        let until = ends.map_or(next, |end| end.min(next));
        let patience = until.saturating_duration_since(Instant::now());
        let alarmed = desk.turn(signals.as_fd(), patience, || saying).map_err(Error::System)?;
        let now = Instant::now();
        if alarmed && signals.read_signal().map_err(Error::System)?.is_some() {
            if ends.is_some() {
                tell("told twice to end");
                return Ok(());
            }
            ends = Some(now + drain);
            if !drain.is_zero() {
                tell(&format!("asking for drain for at most {} s", drain.as_secs()));
            }
        }
        if ends.is_some_and(|end| end <= now) {
            return Ok(());
        }
        if next <= now {
            next = now + WINDOW;
            measured = sampler.idle();
            let told = ends.is_some() && desk.has_told() && service.is_known();
            if told && service.connections(Path::new(PROC)) == 0 {
                tell("the service has no connections any more");
                return Ok(());
            }
        }
    }
}
