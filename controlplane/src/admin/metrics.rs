//! `/metrics`: the state as Prometheus reads it (text exposition format 0.0.4).

use std::fmt::{Display, Write as _};

use crate::alerts::Tally;
use crate::net::in_band::StackStats;
use crate::node::Node;
use crate::report::{Interface, Server, Service, Traffic, Worker};

/// All metrics of the node.
pub fn text(node: &Node) -> String {
    let status = node.status();
    let counters = node.counters();
    let mut page = Page::default();

    page.gauge("info", "The node and the version of its program.");
    page.sample("info", &[("node", &status.node), ("version", &status.version)], 1);
    page.gauge("uptime_seconds", "Seconds since the start.");
    page.sample("uptime_seconds", &[], status.uptime);
    page.gauge("generation", "How many snapshots the workers have been given.");
    page.sample("generation", &[], status.generation);
    page.gauge("current", "Whether every worker has taken up the newest snapshot.");
    page.sample("current", &[], u8::from(status.current));
    page.gauge("control_longest_gap_seconds", "The control thread's longest gap in a minute.");
    page.sample("control_longest_gap_seconds", &[], status.control_longest_gap);
    page.counter("checks_total", "Checks of servers.");
    page.sample("checks_total", &[], node.asked().asked());
    page.counter("checks_failed_total", "Checks that servers have failed.");
    page.sample("checks_failed_total", &[], node.asked().failed());
    page.gauge("checks_waiting", "Checks that are due and wait for others to end.");
    page.sample("checks_waiting", &[], node.asked().waiting());
    page.gauge("checks_late_seconds", "How long the first of those has waited.");
    page.sample("checks_late_seconds", &[], node.asked().late().as_secs_f64());
    page.gauge("buffers", "Packet buffers.");
    page.sample("buffers", &[], status.buffers.capacity);
    page.gauge("buffers_available", "Packet buffers that are free.");
    page.sample("buffers_available", &[], status.buffers.available);

    for (name, kind, help, value) in WORKER {
        page.family(name, kind, help);
        for (number, worker) in counters.workers.iter().enumerate() {
            page.sample(name, &[("worker", &number)], value(worker));
        }
    }
    page.gauge("flow_table_use", "How full the flow table is, from 0 to 1.");
    for (number, worker) in counters.workers.iter().enumerate() {
        page.sample("flow_table_use", &[("worker", &number)], worker.flows.fullness());
    }
    page.counter("dropped_frames_total", "Frames dropped, by reason.");
    for (number, worker) in counters.workers.iter().enumerate() {
        for drop in &worker.drops {
            let labels: Labels = &[("worker", &number), ("reason", &drop.reason)];
            page.sample("dropped_frames_total", labels, drop.frames);
        }
    }
    let control = counters.control;
    for (name, help, value) in [
        ("control_arp_received_frames_total", "ARP frames handed over.", control.arp_received),
        ("control_nd_received_frames_total", "Neighbour discovery.", control.nd_received),
        ("control_icmp_received_frames_total", "ICMP packets handed over.", control.icmp_received),
        ("control_echoes_answered_total", "Echo requests answered.", control.echoes_answered),
        ("control_sent_frames_total", "Frames given to the workers to send.", control.sent),
        ("control_lost_frames_total", "Frames lost to a full ring.", control.send_ring_full),
        ("arp_malformed_frames_total", "ARP frames that are none.", control.arp_malformed),
        ("arp_forged_frames_total", "ARP frames with a forged sender.", control.arp_forged),
        ("arp_stranger_frames_total", "ARP frames from another subnet.", control.arp_stranger),
        ("arp_conflict_frames_total", "ARP frames that claim our address.", control.arp_conflict),
        ("nd_malformed_frames_total", "Neighbour discovery that is none.", control.nd_malformed),
        ("nd_forged_frames_total", "Neighbour discovery from afar.", control.nd_forged),
        ("nd_stranger_frames_total", "The same from another subnet.", control.nd_stranger),
        ("nd_conflict_frames_total", "The same that claims our address.", control.nd_conflict),
        ("arp_not_asked_total", "Neighbours not asked for in a flood.", control.arp_not_asked),
    ] {
        page.counter(name, help);
        page.sample(name, &[], value);
    }
    page.counter("events_total", "Events, by what changed and its new state.");
    for (subject, new, count) in node.events().counts() {
        page.sample("events_total", &[("subject", &subject), ("new", &new)], count);
    }
    let alerts = node.alerts();
    let kinds = [("mail", &alerts.mail), ("webhook", &alerts.webhook)];
    for (name, help, value) in ALERTS {
        page.counter(name, help);
        for (kind, tally) in kinds {
            page.sample(name, &[("kind", &kind)], value(tally));
        }
    }
    for (name, kind, help, value) in IN_BAND {
        page.family(name, kind, help);
        page.sample(name, &[], value(&counters.in_band));
    }
    for (name, kind, help, value) in INTERFACE {
        page.family(name, kind, help);
        for interface in &status.interfaces {
            page.sample(name, &[("interface", &interface.name)], value(interface));
        }
    }

    page.gauge("service_up", "Whether a server of the service takes new connections.");
    for service in &status.services {
        page.sample(
            "service_up",
            &[("service", &service.name)],
            u8::from(["up", "degraded"].contains(&service.state.as_str())),
        );
    }
    page.gauge("server_up", "Whether the server can be reached and passes its check.");
    each_server(&status.services, |labels, server| {
        page.sample("server_up", labels, u8::from(is_well(server)));
    });
    page.gauge("server_weight", "The server's share of new connections.");
    each_server(&status.services, |labels, server| {
        page.sample("server_weight", labels, server.weight);
    });
    page.gauge("server_effective_weight", "The server's share of new connections now.");
    each_server(&status.services, |labels, server| {
        page.sample("server_effective_weight", labels, server.effective_weight);
    });
    page.gauge("agent_idle_percent", "How idle the server's agent says that it is.");
    each_server(&status.services, |labels, server| {
        if let Some(idle) = server.agent.as_ref().and_then(|agent| agent.idle) {
            page.sample("agent_idle_percent", labels, idle);
        }
    });
    page.gauge("agent_misses", "Questions in a row that the server's agent has not answered.");
    each_server(&status.services, |labels, server| {
        if let Some(agent) = &server.agent {
            page.sample("agent_misses", labels, agent.missed);
        }
    });
    for &(name, kind, help, value) in TRAFFIC {
        page.traffic(&status.services, (name, kind, help), value);
    }
    let took = ("handshake_seconds_total", "counter", "How long those answers took.");
    let seconds = |traffic: &Traffic| traffic.totals.handshake_milliseconds as f64 / 1000.0;
    page.traffic(&status.services, took, seconds);
    page.0
}

fn is_well(server: &Server) -> bool {
    !["unreachable", "unknown", "closing", "down"].contains(&server.actual.as_str())
}

fn each_server(services: &[Service], mut show: impl FnMut(Labels, &Server)) {
    for service in services {
        for server in &service.servers {
            show(&[("service", &service.name), ("server", &server.name)], server);
        }
    }
}

type Family<T> = (&'static str, &'static str, &'static str, fn(&T) -> u64);

const WORKER: &[Family<Worker>] = &[
    ("received_frames_total", "counter", "Frames received.", |w| w.received),
    ("received_bytes_total", "counter", "Bytes received.", |w| w.received_bytes),
    ("injected_frames_total", "counter", "Frames that the node made itself.", |w| w.injected),
    ("transmitted_frames_total", "counter", "Frames transmitted.", |w| w.transmitted),
    ("transmitted_bytes_total", "counter", "Bytes transmitted.", |w| w.transmitted_bytes),
    ("punted_frames_total", "counter", "Frames handed to the control plane.", |w| w.punted),
    ("punted_answer_frames_total", "counter", "Of those, of the node's own conversations.", |w| {
        w.punted_answers
    }),
    ("handed_over_frames_total", "counter", "Frames handed to another worker.", |w| w.handed_over),
    ("taken_over_frames_total", "counter", "Frames from another worker.", |w| w.taken_over),
    ("waiting_frames", "gauge", "Frames that wait for a neighbour.", |w| w.waiting),
    ("flows", "gauge", "Flows in the table.", |w| w.flows.used),
    ("flow_capacity", "gauge", "Flows that the table has room for.", |w| w.flows.capacity),
    ("flows_created_total", "counter", "Flows created.", |w| w.flows_created),
    ("flows_evicted_total", "counter", "Flows ended early for others.", |w| w.flows_evicted),
    ("forwarded_without_flow_total", "counter", "Packets forwarded by hash alone.", |w| {
        w.forwarded_without_flow
    }),
    ("cookies_accepted_total", "counter", "SYN cookies that came back.", |w| w.cookies_accepted),
    ("announcements_refused_total", "counter", "FTP announcements of third parties.", |w| {
        w.announcements_refused
    }),
    ("clients_evicted_total", "counter", "Clients forgotten for others.", |w| w.clients_evicted),
    ("idle_turns_total", "counter", "Turns in which no frame came.", |w| w.idle_turns),
    ("busy_turns_total", "counter", "Turns in which some frames came.", |w| w.busy_turns),
];

type Alert = (&'static str, &'static str, fn(&Tally) -> u64);

const ALERTS: &[Alert] = &[
    ("alerts_sent_total", "Mails and messages that got there.", Tally::sent),
    ("alerts_failed_total", "Attempts that failed.", Tally::failed),
    ("alerts_lost_total", "Events that somebody was not told of.", Tally::lost),
];

const IN_BAND: &[Family<StackStats>] = &[
    ("in_band_received_packets_total", "counter", "Packets for us.", |s| s.received),
    ("in_band_sent_packets_total", "counter", "Packets of our own.", |s| s.sent),
    ("in_band_connections", "gauge", "TCP connections.", |s| s.connections),
    ("in_band_half_open", "gauge", "Connections not accepted yet.", |s| s.half_open),
    ("in_band_time_wait", "gauge", "Connections that are over.", |s| s.time_wait),
    ("in_band_udp_sockets", "gauge", "UDP sockets.", |s| s.udp_sockets),
    ("in_band_opened_total", "counter", "Connections that we opened.", |s| s.opened),
    ("in_band_accepted_total", "counter", "Connections of clients.", |s| s.accepted),
    ("in_band_malformed_packets_total", "counter", "Damaged packets.", |s| s.malformed),
    ("in_band_fragments_total", "counter", "Fragments, which are dropped.", |s| s.fragments),
    ("in_band_not_ours_packets_total", "counter", "Packets for or from nobody.", |s| s.not_ours),
    ("in_band_other_protocol_packets_total", "counter", "Packets of no use.", |s| s.other_protocol),
    ("in_band_nobody_waits_packets_total", "counter", "Packets to no socket.", |s| s.nobody_waits),
    ("in_band_refused_total", "counter", "Of those, answered.", |s| s.refused),
    ("in_band_backlog_full_total", "counter", "Clients who were not let in.", |s| s.backlog_full),
    ("in_band_challenged_total", "counter", "Clients given a cookie.", |s| s.challenged),
    ("in_band_no_room_total", "counter", "Conversations without room.", |s| s.no_room),
    ("in_band_no_route_total", "counter", "Conversations without a route.", |s| s.no_route),
    ("in_band_datagrams_dropped_total", "counter", "Datagrams not taken.", |s| s.datagrams_dropped),
    ("in_band_queue_full_total", "counter", "Packets that found no room.", |s| s.queue_full),
    ("in_band_errors_ignored_total", "counter", "ICMP errors of no use.", |s| s.errors_ignored),
    ("in_band_errors_told_total", "counter", "ICMP errors of use.", |s| s.errors_told),
    ("in_band_no_neighbour_total", "counter", "Packets to silent stations.", |s| s.no_neighbour),
];

const INTERFACE: &[Family<Interface>] = &[
    ("interface_up", "gauge", "Whether the link is up.", |i| i.statistics.link_up.into()),
    ("interface_received_frames_total", "counter", "Frames the card received.", |i| {
        i.statistics.received
    }),
    ("interface_received_bytes_total", "counter", "Bytes the card received.", |i| {
        i.statistics.received_bytes
    }),
    ("interface_transmitted_frames_total", "counter", "Frames the card sent.", |i| {
        i.statistics.transmitted
    }),
    ("interface_transmitted_bytes_total", "counter", "Bytes the card sent.", |i| {
        i.statistics.transmitted_bytes
    }),
    ("interface_missed_frames_total", "counter", "Frames the card had no room for.", |i| {
        i.statistics.missed
    }),
    ("interface_receive_errors_total", "counter", "Frames received damaged.", |i| {
        i.statistics.receive_errors
    }),
    ("interface_transmit_errors_total", "counter", "Frames the card failed to send.", |i| {
        i.statistics.transmit_errors
    }),
    ("interface_no_buffer_total", "counter", "Times the card found no free buffer.", |i| {
        i.statistics.no_buffer
    }),
];

const TRAFFIC: &[Family<Traffic>] = &[
    ("connections", "gauge", "Connections now.", |t| t.connections),
    ("closing_connections", "gauge", "Connections that are closing.", |t| t.closing),
    ("connections_total", "counter", "Connections begun.", |t| t.totals.connections),
    ("packets_total", "counter", "Packets from clients.", |t| t.totals.packets),
    ("bytes_total", "counter", "Bytes from clients.", |t| t.totals.bytes),
    ("reply_packets_total", "counter", "Packets back to clients.", |t| t.totals.reply_packets),
    ("reply_bytes_total", "counter", "Bytes back to clients.", |t| t.totals.reply_bytes),
    ("unanswered_total", "counter", "First SYNs without an answer.", |t| t.totals.unanswered),
    ("refused_total", "counter", "Connections that servers refused.", |t| t.totals.refused),
    ("resets_total", "counter", "Connections that servers reset.", |t| t.totals.resets),
    ("handshakes_total", "counter", "First SYNs that were answered.", |t| t.totals.handshakes),
];

type Labels<'l> = &'l [(&'l str, &'l dyn Display)];

/// The text as far as it is written; every name gets the prefix `sluice_`.
#[derive(Default)]
struct Page(String);

impl Page {
    fn gauge(&mut self, name: &str, help: &str) {
        self.family(name, "gauge", help);
    }

    fn counter(&mut self, name: &str, help: &str) {
        self.family(name, "counter", help);
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP sluice_{name} {help}\n# TYPE sluice_{name} {kind}");
    }

    /// The same of every service and of every server.
    fn traffic<V: Display>(
        &mut self,
        services: &[Service],
        (name, kind, help): (&str, &str, &str),
        value: impl Fn(&Traffic) -> V,
    ) {
        let service_name = format!("service_{name}");
        self.family(&service_name, kind, help);
        for service in services {
            self.sample(&service_name, &[("service", &service.name)], value(&service.traffic));
        }
        let server_name = format!("server_{name}");
        self.family(&server_name, kind, help);
        each_server(services, |labels, server| {
            self.sample(&server_name, labels, value(&server.traffic));
        });
    }

    fn sample(&mut self, name: &str, labels: Labels, value: impl Display) {
        let _ = write!(self.0, "sluice_{name}");
        for (position, (label, text)) in labels.iter().enumerate() {
            let opening = if position == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{opening}{label}=\"{}\"", escaped(&text.to_string()));
        }
        let closing = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{closing} {value}");
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_break_out_of_its_quotes() {
        let mut page = Page::default();
        page.sample("x", &[("name", &"a\"b\\c\nd")], 1);
        assert_eq!(page.0, "sluice_x{name=\"a\\\"b\\\\c\\nd\"} 1\n");
    }
}
