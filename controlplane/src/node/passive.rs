//! What clients' own connections tell, service by service, and who is left out because of it.

use std::collections::HashMap;

use dataplane::moment::Moment;
use dataplane::snapshot::{ServerId, ServiceId};

use super::traffic::Accounts;
use super::{ServiceView, View};
use crate::health::passive::{Ejector, ServerSignals};
use crate::states::{Flows, States};

/// The policies of all services that have one.
#[derive(Default)]
pub struct Ejectors(HashMap<ServiceId, Ejector>);

impl Ejectors {
    /// Looks at the connections of all services that ask for it. Skipped while somebody else is at the states.
    pub fn look(&mut self, now: Moment, view: &View, accounts: &Accounts, states: &States) {
        if self.0.is_empty() && view.config.services.iter().all(|it| it.passive.is_none()) {
            return;
        }
        states.judge_flows(|flows| self.judge(now, view, accounts, flows));
    }

    fn judge(&mut self, now: Moment, view: &View, accounts: &Accounts, flows: &mut Flows<'_>) {
        let mut earlier = std::mem::take(&mut self.0);
        for service in view.services() {
            let ids: Vec<_> = service.servers().map(|(id, _)| id).collect();
            let mut ejector = earlier.remove(&service.id);
            let ejected = match service.config.passive {
                None => Vec::new(),
                Some(settings) => {
                    let ejector = ejector.get_or_insert_with(|| Ejector::new(settings));
                    ejector.configure(settings);
                    ejector.ejected(now, &signals(service, accounts, flows))
                }
            };
            if ejector.is_some() {
                leave_out(&ids, ejected, flows);
            }
            if service.config.passive.is_some() {
                self.0.extend(ejector.map(|ejector| (service.id, ejector)));
            }
        }
    }
}

fn signals(service: ServiceView, accounts: &Accounts, flows: &Flows<'_>) -> Vec<ServerSignals> {
    let of = |(server, _): (ServerId, _)| {
        let totals = accounts.server(server).totals;
        ServerSignals {
            server,
            available: flows.is_available(server),
            handshakes: totals.handshakes,
            unanswered: totals.unanswered,
            refused: totals.refused,
        }
    };
    service.servers().map(of).collect()
}

/// These servers, by position, and no others.
fn leave_out(ids: &[ServerId], ejected: Vec<(usize, String)>, flows: &mut Flows<'_>) {
    let mut reasons: HashMap<_, _> = ejected.into_iter().collect();
    for (position, &id) in ids.iter().enumerate() {
        flows.eject(id, reasons.remove(&position));
    }
}
