//! Servers for direct return that do not have the virtual address as an operator of IPv4 gives it to them:
//! IPv6, and packet filters that redirect what comes for it. The lines are those of the documents.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use sluice_tests::lab::{DIRECT, both, ipv6};
use sluice_tests::rig::{Rig, at};
use sluice_tests::server::Server;
use sluice_tests::service::direct;

sluice_tests::cases! {
    over_ipv6_the_address_is_usable_at_once_without_detection_of_duplicates,
    iptables_redirects_what_comes_for_the_virtual_address,
    nftables_redirects_both_families_by_one_script,
    nftables_redirects_by_a_table_for_each_family,
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
    server.unpublish(DIRECT);
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
    server.unpublish(DIRECT);
    for address in both(DIRECT) {
        for matches in ["", "-p tcp"] {
            assert!(!answers(rig, server, address), "nobody has {address}");
            server.redirect_by_iptables(address, matches);
            serves(rig, server, address, own(server, address));
            server.stop_redirecting();
        }
    }
}

/// AR-05.
fn nftables_redirects_both_families_by_one_script(rig: &mut Rig) {
    redirected_by(rig, |server| server.redirect_by_nftables(DIRECT));
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
    redirected_by(rig, |server| server.nftables(&script));
}

/// Expects that the third server needs this to serve both families, and nothing else.
fn redirected_by(rig: &Rig, redirect: impl Fn(&Server)) {
    let server = &rig.direct()[2];
    server.unpublish(DIRECT);
    for address in both(DIRECT) {
        assert!(!answers(rig, server, address), "nobody has {address}");
    }
    redirect(server);
    for address in both(DIRECT) {
        serves(rig, server, address, own(server, address));
    }
    server.stop_redirecting();
    server.publish_here(DIRECT);
}
