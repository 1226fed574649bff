//! Two stacks and a wire between them that loses, repeats and reorders, by a clock that tests set.

mod answers;

mod both_ways;

mod cost;

mod hostile;

mod manners;

mod secrecy;

use std::collections::VecDeque;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use dataplane::moment::Moment;
use dataplane::snapshot::{Interface, InterfaceId, PortId, Route, Routes};
use dataplane::wire::{Mac, Prefix};

use super::*;
use crate::net::{Listen as _, Listener as _, Net, Way};

/// The addresses of a node: one of each family.
fn paths(v4: &str, v6: &str, mtu: u16) -> Arc<Paths> {
    let addresses: Vec<_> =
        vec![Prefix::new(v4.parse().unwrap(), 24), Prefix::new(v6.parse().unwrap(), 64)];
    let routes = addresses.iter().map(|&to| Route { to, interface: InterfaceId(0), via: None });
    let routes = Routes::new(routes);
    let interface = Interface {
        port: PortId(0),
        vlan: None,
        mac: Mac([2, 0, 0, 0, 0, 1]),
        mtu,
        addresses,
        gateway: false,
    };
    Arc::new(Paths::new([interface].into(), Arc::new(routes)))
}

const LEFT: [&str; 2] = ["10.0.0.1", "2001:db8::1"];
const RIGHT: [&str; 2] = ["10.0.0.2", "2001:db8::2"];

fn stack([v4, v6]: [&str; 2], seed: u8) -> Stack {
    let stack = Stack::new([seed; 16]);
    stack.configure(paths(v4, v6, 1500));
    stack
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// What the wire does to the next packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Arrives,
    IsLost,
    ArrivesTwice,
    ArrivesLate,
}

/// Two stacks on one wire.
struct Rig {
    now: Moment,
    left: Stack,
    right: Stack,
    /// Packets under way, by when they arrive; those for the right first.
    wire: [VecDeque<(Moment, Vec<u8>)>; 2],
    fates: Box<dyn FnMut() -> Fate>,
}

impl Rig {
    fn new() -> Self {
        Self::with_fates(|| Fate::Arrives)
    }

    fn with_fates(fates: impl FnMut() -> Fate + 'static) -> Self {
        Self {
            now: Moment::START.plus(Duration::from_secs(100)),
            left: stack(LEFT, 1),
            right: stack(RIGHT, 2),
            wire: [VecDeque::new(), VecDeque::new()],
            fates: Box::new(fates),
        }
    }

    fn client(&self) -> InBand {
        self.left.clone().into()
    }

    fn server(&self) -> InBand {
        self.right.clone().into()
    }

    /// A millisecond passes.
    fn turn(&mut self) {
        self.now = self.now.plus(Duration::from_millis(1));
        let now = self.now;
        for (wire, to) in self.wire.iter_mut().zip([&self.right, &self.left]) {
            let (arrived, later): (Vec<_>, Vec<_>) =
                wire.drain(..).partition(|(due, _)| *due <= now);
            wire.extend(later);
            for (_, packet) in arrived {
                answers::are_known(to, &packet);
                to.receive(now, &packet);
            }
        }
        for (wire, from) in self.wire.iter_mut().zip([&self.left, &self.right]) {
            from.turn(now);
            while let Some(Outgoing { packet, .. }) = from.next_packet() {
                let soon = now.plus(Duration::from_millis(1));
                match (self.fates)() {
                    Fate::Arrives => wire.push_back((soon, packet)),
                    Fate::IsLost => {}
                    Fate::ArrivesTwice => {
                        wire.push_back((soon, packet.clone()));
                        wire.push_back((soon, packet));
                    }
                    Fate::ArrivesLate => {
                        wire.push_back((now.plus(Duration::from_millis(7)), packet));
                    }
                }
            }
        }
    }

    fn turns(&mut self, milliseconds: u64) {
        (0..milliseconds).for_each(|_| self.turn());
    }

    /// Turns until something has happened, but not for ever.
    fn until<T>(&mut self, what: impl Future<Output = T>) -> T {
        self.within(Duration::from_secs(600), what).expect("it never happens")
    }

    /// Turns until something has happened, or so much time has passed.
    fn within<T>(&mut self, time: Duration, what: impl Future<Output = T>) -> Option<T> {
        let mut what = pin!(what);
        let end = self.now.plus(time);
        while self.now < end {
            if let Poll::Ready(happened) = poll(what.as_mut()) {
                return Some(happened);
            }
            self.turn();
        }
        None
    }
}

fn poll<T>(what: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    what.poll(&mut Context::from_waker(Waker::noop()))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
