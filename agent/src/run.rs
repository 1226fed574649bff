//! An agent from its start to its end: it says how idle the server is, once a second measured anew; after
//! SIGTERM it asks for drain, and then goes.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};

use crate::arguments::{Fix, Idle, Listen, Run, Tunnels};
use crate::decapsulate::{Decapsulator, Rules};
use crate::drain::Drain;
use crate::error::Error;
use crate::fix::fix;
use crate::idle::Sampler;
use crate::record::{Change, Record, Reliance};
use crate::serve::{Desk, Kind, Saying};

/// How often idleness is measured, and for how long it is looked at.
const WINDOW: Duration = Duration::from_secs(1);
/// The same for whoever waits for the answer.
const SHORT_WINDOW: Duration = Duration::from_millis(300);
const PROC: &str = "/proc";
/// The user and the group that own nothing.
const NOBODY: u32 = 65_534;

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

/// Says how idle the server is until it is told to end, and has drained. The server stays prepared.
///
/// # Errors
/// When a port cannot be had, or the server cannot be prepared.
pub fn run(wanted: Run, tell: fn(&str)) -> Result<(), Error> {
    let signals = signals()?;
    let ports = ports(&wanted)?;
    let Run { fix, tunnels, decapsulate, .. } = &wanted;
    let _reliance = match fix.addresses.is_empty() {
        true => {
            give_up_root(tell);
            None
        }
        false => {
            let open = |record: &mut Record| match decapsulate {
                true => open(fix, tunnels, record, tell).map(Some),
                false => Ok(None),
            };
            let (decapsulator, reliance) = prepared(fix, tell, open)?;
            if let Some(decapsulator) = decapsulator {
                // Until this process ends; if it cannot wait any more, packets are lost and checks say so.
                thread::spawn(move || decapsulator.run(None));
            }
            Some(reliance)
        }
    };
    let desk = Desk::new(ports, wanted.tunnels.from.clone());
    let desk = desk.map_err(|why| Error::Kernel { path: "socket".into(), why })?;
    serve(desk, &wanted, &signals, tell)
}

/// Takes packets out of tunnels until it is told to end. The server stays prepared.
///
/// # Errors
/// As for [`run`].
pub fn decapsulate(fix: &Fix, tunnels: &Tunnels, tell: fn(&str)) -> Result<(), Error> {
    let signals = signals()?;
    let (decapsulator, _reliance) = prepared(fix, tell, |record| open(fix, tunnels, record, tell))?;
    tell("taking packets out of tunnels");
    decapsulator.run(Some(signals.as_fd())).map_err(Error::System)
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

/// Solves the ARP problem and does `more` that needs root; what that makes, and what keeps others from undoing
/// it. Nothing is undone at the end: an address that goes while clients are still sent here, or does not come
/// back with the service, is a server that swallows packets.
fn prepared<T>(
    wanted: &Fix,
    tell: fn(&str),
    more: impl FnOnce(&mut Record) -> Result<T, Error>,
) -> Result<(T, Reliance), Error> {
    let reliance = Reliance::on(&wanted.state)?;
    let mut record = Record::open(&wanted.state)?;
    let told = |change: &Change| tell(&change.told());
    fix(&wanted.addresses, &wanted.devices, &mut record, told)?;
    let made = more(&mut record)?;
    give_up_root(tell);
    Ok((made, reliance))
}

/// For good, if this is root: what is left to do needs nothing of it, and speaks with strangers. To be called
/// before any thread is started.
fn give_up_root(tell: fn(&str)) {
    if !geteuid().is_root() {
        return;
    }
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    let given_up = setgroups(&[])
        .and_then(|()| setresgid(group, group, group))
        .and_then(|()| setresuid(user, user, user));
    if let Err(why) = given_up {
        tell(&format!("stays root: {why}"));
    }
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

fn serve(mut desk: Desk, wanted: &Run, signals: &SignalFd, tell: fn(&str)) -> Result<(), Error> {
    let proc = Path::new(PROC);
    let Idle { mix, service } = &wanted.idle;
    let mut sampler = Sampler::new(mix.clone(), service.clone(), proc);
    let mut measured = sampler.idle();
    let mut next = Instant::now() + WINDOW;
    let mut drain: Option<Drain<'_>> = None;
    loop {
        let saying = if drain.is_some() { Saying::Drain } else { Saying::Idle(measured) };
        let until = drain.as_ref().map_or(next, |drain| drain.next_look().min(next));
        let patience = until.saturating_duration_since(Instant::now());
        let alarmed = desk.turn(signals.as_fd(), patience, || saying).map_err(Error::System)?;
        let now = Instant::now();
        if alarmed && signals.read_signal().map_err(Error::System)?.is_some() {
            if drain.is_some() {
                tell("told twice to end");
                return Ok(());
            }
            drain = Some(Drain::start(service, proc, now, wanted.drain, wanted.settle));
            if !wanted.drain.is_zero() {
                tell(&format!("asking for drain for at most {} s", wanted.drain.as_secs()));
            }
        }
        if let Some(why) = drain.as_mut().and_then(|drain| drain.over(now, desk.askers())) {
            tell(why);
            return Ok(());
        }
        if next <= now {
            next = now + WINDOW;
            measured = sampler.idle();
        }
    }
}
