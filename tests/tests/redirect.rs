//! Servers for direct return that do not have the virtual address as an operator of IPv4 gives it to them:
//! IPv6, and packet filters that redirect what comes for it. The lines are those of the documents.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use sluice_tests::lab::{DIRECT, both, ipv6};
use sluice_tests::process;
use sluice_tests::rig::{Rig, at};
use sluice_tests::server::Server;
use sluice_tests::service::direct;

sluice_tests::cases! {
    over_ipv6_the_address_is_usable_at_once_without_detection_of_duplicates,
    iptables_redirects_what_comes_for_the_virtual_address,
    nftables_redirects_both_families_by_one_script,
    nftables_redirects_by_a_table_for_each_family,
}

/// Takes the virtual addresses from a server.
fn unpublish(server: &Server) {
    server.namespace.ip(&format!(
        "addr del {DIRECT}/32 dev lo
         addr del {}/128 dev lo\n",
        ipv6(DIRECT)
    ));
}

/// Publishes the server at one of the virtual addresses; whether it answers there.
fn answers(rig: &Rig, server: &Server, address: IpAddr) -> bool {
    rig.serve([&direct("web", address, "80").to(server)]);
    let tried = rig.client().attempt(&at(address, 80), 1, Duration::from_millis(500));
    tried[0].is_ok()
}

/// Expects that the server is asked at `local` by clients that ask for `address`, and sees who they are.
fn serves(rig: &Rig, server: &Server, address: IpAddr, local: IpAddr) {
    rig.serve([&direct("web", address, "80").to(server)]);
    for client in &rig.lab.clients {
        let answers = client.connect(&at(address, 80), 4);
        assert_eq!(answers.from(server), 4, "{address}");
        assert_eq!(answers.peers(), BTreeSet::from([client.address_like(address)]), "{address}");
        assert_eq!(answers.locals(), BTreeSet::from([SocketAddr::new(local, 80)]), "{address}");
    }
}

fn own(server: &Server, like: IpAddr) -> IpAddr {
    if like.is_ipv4() { server.address.into() } else { server.ipv6().into() }
}

/// AR-03.
fn over_ipv6_the_address_is_usable_at_once_without_detection_of_duplicates(rig: &mut Rig) {
    let server = &rig.direct()[0];
    let published = ipv6(DIRECT);
    unpublish(server);
    server.namespace.sysctl("net.ipv6.conf.lo.dad_transmits", "1");
    server.namespace.sysctl("net.ipv6.conf.lo.accept_dad", "1");
    assert!(!answers(rig, server, published.into()), "nobody has it");

    server.namespace.shell(&format!(
        "sysctl -qw net.ipv6.conf.lo.dad_transmits=0
         sysctl -qw net.ipv6.conf.lo.accept_dad=0
         ip addr add dev lo {published}/128"
    ));
    serves(rig, server, published.into(), published.into());
}

/// AR-04: for TCP alone, and for whatever comes.
fn iptables_redirects_what_comes_for_the_virtual_address(rig: &mut Rig) {
    let server = &rig.direct()[1];
    unpublish(server);
    for (program, address) in ["iptables", "ip6tables"].into_iter().zip(both(DIRECT)) {
        for protocol in ["", "-p tcp "] {
            assert!(!answers(rig, server, address), "nobody has {address}");
            let rule = format!("PREROUTING {protocol}-d {address} -j REDIRECT");
            server.namespace.shell(&format!("{program} -t nat -A {rule}"));
            serves(rig, server, address, own(server, address));
            server.namespace.shell(&format!("{program} -t nat -D {rule}"));
        }
    }
}

/// AR-05.
fn nftables_redirects_both_families_by_one_script(rig: &mut Rig) {
    let [four, six] = both(DIRECT);
    redirected_by(
        rig,
        &format!(
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
        ),
    );
}

/// AR-05, as kernels before 5.2 and 4.18 need it.
fn nftables_redirects_by_a_table_for_each_family(rig: &mut Rig) {
    let table = |(family, address): (&str, IpAddr)| {
        format!(
            r#"
            table {family} nat {{
                chain prerouting {{
                    type nat hook prerouting priority -100; policy accept;
                    {family} daddr {address} counter redirect comment "VIP"
                }}
                chain postrouting {{
                    type nat hook postrouting priority 100; policy accept;
                }}
            }}
            "#
        )
    };
    let script: String = ["ip", "ip6"].into_iter().zip(both(DIRECT)).map(table).collect();
    redirected_by(rig, &script);
}

/// Expects that the third server needs this script to serve both families, and nothing else.
fn redirected_by(rig: &Rig, script: &str) {
    let server = &rig.direct()[2];
    unpublish(server);
    for address in both(DIRECT) {
        assert!(!answers(rig, server, address), "nobody has {address}");
    }
    process::feed(server.namespace.command("nft").args(["-f", "-"]), script);
    for address in both(DIRECT) {
        serves(rig, server, address, own(server, address));
    }
    server.namespace.shell("nft flush ruleset");
    server.publish_here(DIRECT);
}
