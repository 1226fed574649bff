//! Virtual services as a test writes them down: the JSON of the configuration, a word at a time.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::server::Server;

/// A virtual service in the making.
#[derive(Debug, Clone)]
pub struct Service(Value);

/// A TCP service by direct return.
pub fn direct(name: &str, address: impl Into<IpAddr>, ports: &str) -> Service {
    Service::new(name, address.into(), ports, "dr")
}

/// A TCP service by NAT.
pub fn nat(name: &str, address: impl Into<IpAddr>, ports: &str) -> Service {
    Service::new(name, address.into(), ports, "nat")
}

/// A TCP service by NAT of both ends.
pub fn snat(name: &str, address: impl Into<IpAddr>, ports: &str) -> Service {
    Service::new(name, address.into(), ports, "snat")
}

/// A TCP service by tunnels, of bare IP unless more is said.
pub fn tunnel(name: &str, address: impl Into<IpAddr>, ports: &str) -> Service {
    Service::new(name, address.into(), ports, "tun")
}

impl Service {
    fn new(name: &str, address: IpAddr, ports: &str, mode: &str) -> Self {
        Self(json!({
            "name": name,
            "address": address,
            "ports": ports,
            "protocol": "tcp",
            "mode": mode,
            "scheduler": "rr",
            "check": { "type": "on" },
            "server": [],
        }))
    }

    /// With `name` set to `value`, whatever that is.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0[name] = value.into();
        self
    }

    /// With another server.
    pub fn to(self, server: &Server) -> Self {
        self.to_with(server, json!({}))
    }

    /// With all of `servers`.
    pub fn to_all<'a>(self, servers: impl IntoIterator<Item = &'a Server>) -> Self {
        servers.into_iter().fold(self, Self::to)
    }

    /// With another server, of this weight.
    pub fn weighted(self, server: &Server, weight: u32) -> Self {
        self.to_with(server, json!({ "weight": weight }))
    }

    /// With several virtual addresses, or prefixes of them, instead of the one.
    pub fn at_all(mut self, addresses: &[&str]) -> Self {
        self.0["addresses"] = json!(addresses);
        self.0.as_object_mut().expect("made above").remove("address");
        self
    }

    /// With clients that return to the server that they had, as `persistence` says.
    pub fn persistent(self, persistence: Value) -> Self {
        self.with("persistence", persistence)
    }

    /// With another server, of which more is said. It is reached by the address that is of the
    /// virtual address's kind.
    ///
    /// # Panics
    /// If `more` is not an object.
    pub fn to_with(mut self, server: &Server, more: Value) -> Self {
        let mut entry = json!({ "name": server.name, "address": server.address });
        if self.0["address"].as_str().is_some_and(|address| address.contains(':')) {
            entry["address"] = json!(server.ipv6());
        }
        for (name, value) in more.as_object().expect("an object") {
            entry[name] = value.clone();
        }
        self.0["server"].as_array_mut().expect("made above").push(entry);
        self
    }

    /// The JSON of it.
    pub fn json(&self) -> Value {
        self.0.clone()
    }
}
