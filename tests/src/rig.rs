//! A laboratory with an appliance in it: what most tests start from.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::json;

use crate::appliance::{Appliance, INTERFACES_ONLY};
use crate::books::Books;
use crate::client::Client;
use crate::lab::{Lab, PROXIED};
use crate::server::Server;
use crate::service::{Service, snat};

/// The laboratory and the appliance.
pub struct Rig {
    /// The program; it ends before its wires go.
    pub appliance: Appliance,
    /// The machines around it.
    pub lab: Lab,
}

impl Rig {
    /// A laboratory whose appliance has interfaces and no services.
    pub fn boot() -> Self {
        Self::boot_in(Lab::build())
    }

    /// As [`Self::boot`], in a laboratory that is there already.
    pub fn boot_in(lab: Lab) -> Self {
        Self::boot_with(lab, INTERFACES_ONLY)
    }

    /// In that laboratory, an appliance with a configuration of its own.
    pub fn boot_with(lab: Lab, configuration: &str) -> Self {
        let mut appliance = Appliance::new(&lab.appliance, &lab.directory().join("appliance"));
        appliance.configure(configuration);
        appliance.start();
        Self { appliance, lab }
    }

    /// A machine on the clients' wire.
    pub fn client(&self) -> &Client {
        &self.lab.clients[0]
    }

    /// Another machine on the clients' wire.
    pub fn second_client(&self) -> &Client {
        &self.lab.clients[1]
    }

    /// A machine behind the router and a link for short packets.
    pub fn far_client(&self) -> &Client {
        &self.lab.far
    }

    /// Publishes exactly these services.
    pub fn serve<'a>(&self, services: impl IntoIterator<Item = &'a Service>) {
        self.appliance.serve(services);
    }

    /// The servers on the clients' wire.
    pub fn direct(&self) -> &[Server; 3] {
        &self.lab.direct
    }

    /// The servers behind the appliance.
    pub fn translated(&self) -> &[Server; 3] {
        &self.lab.translated
    }

    /// The servers behind the router.
    pub fn tunnelled(&self) -> &[Server; 3] {
        &self.lab.tunnelled
    }

    /// A service at [`PROXIED`] of many servers, at most 2,046: the first of those on the clients' wire stands
    /// for all of them.
    pub fn many(&self, count: u16) -> Service {
        let machine = &self.direct()[0];
        machine.namespace.ip("route replace local 10.6.0.0/21 dev lo\n");
        self.lab.router.ip(&format!("route replace 10.6.0.0/21 via {}\n", machine.address));
        // What comes in for so many addresses is no reason to doubt who sends it.
        machine.namespace.sysctl("net.ipv4.conf.all.rp_filter", "0");
        let server = |number: u16| {
            let [high, low] = (number + 1).to_be_bytes();
            json!({ "name": format!("many{number}"), "address": Ipv4Addr::new(10, 6, high, low) })
        };
        snat("many", PROXIED, "80").with("server", (0..count).map(server).collect::<Vec<_>>())
    }

    /// The appliance's hardware address on the clients' wire.
    pub fn wan_mac(&self) -> [u8; 6] {
        self.lab.appliance.mac("wan")
    }

    /// The appliance's hardware address on the translated servers' wire.
    pub fn lan_mac(&self) -> [u8; 6] {
        self.lab.appliance.mac("lan")
    }

    /// Waits until nothing is on its way, and returns where every frame went.
    ///
    /// # Panics
    /// If the books do not balance.
    pub fn books(&self) -> Books {
        Books::closed(&self.appliance)
    }

    /// Asserts what has to hold after every case: the appliance runs if it should, and its books
    /// balance.
    pub fn settle(&mut self) {
        if self.appliance.runs() {
            self.books();
        }
    }
}

/// `address:port`, as a client is told it.
pub fn at(address: impl Into<IpAddr>, port: u16) -> String {
    SocketAddr::new(address.into(), port).to_string()
}
