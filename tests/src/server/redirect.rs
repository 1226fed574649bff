//! Servers that lack the virtual address, and take what comes for it by a packet filter. The lines are those
//! of the documents.

use std::net::{IpAddr, Ipv4Addr};

use super::{Server, interfaces};
use crate::lab;
use crate::process;

impl Server {
    /// Takes a virtual address and the IPv6 one beside it from the server.
    pub fn unpublish(&self, address: Ipv4Addr) {
        let beside = lab::ipv6(address);
        self.namespace.ip(&format!("addr del {address}/32 dev lo\naddr del {beside}/128 dev lo\n"));
    }

    /// Whether one of its interfaces has this address.
    pub fn has(&self, address: impl Into<IpAddr>) -> bool {
        let address = address.into().to_string();
        let shown = interfaces(&self.namespace);
        shown.split_whitespace().any(|word| word.split('/').next() == Some(&address))
    }

    /// Linux's second method (FEATURES AR-04), for what `matches` besides, such as `-p tcp`.
    pub fn redirect_by_iptables(&self, address: impl Into<IpAddr>, matches: &str) {
        let address = address.into();
        let program = if address.is_ipv4() { "iptables" } else { "ip6tables" };
        let rule = format!("PREROUTING {matches} -d {address} -j REDIRECT");
        self.namespace.shell(&format!("{program} -t nat -A {rule}"));
    }

    /// Linux's third method (FEATURES AR-05), for an address and the IPv6 one beside it.
    pub fn redirect_by_nftables(&self, address: Ipv4Addr) {
        let [four, six] = lab::both(address);
        self.nftables(&format!(
            r#"
            table inet nat {{
                chain prerouting {{
                    comment "Allow server to accept packets destined for VIP addresses";
                    type nat hook prerouting priority -100; policy accept;
                    ip daddr {four} redirect comment "VIP 1: HTTP"
                    ip6 daddr {six} redirect comment "VIP 2: HTTP"
                }}
            }}
            "#
        ));
    }

    /// Runs a script of nftables.
    pub fn nftables(&self, script: &str) {
        process::feed(self.namespace.command("nft").args(["-f", "-"]), script);
    }

    /// Ends all that packet filters do.
    pub fn stop_redirecting(&self) {
        self.namespace.shell(
            "iptables -t nat -F PREROUTING
             ip6tables -t nat -F PREROUTING
             nft flush ruleset",
        );
    }
}
