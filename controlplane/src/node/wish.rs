//! What is wanted of one service or server: changes that need no judging, so that they are with the workers before
//! anything is written down, however large the configuration is.

use std::sync::Arc;

use super::change::Change;
use super::{Place, Refusal, View};
use crate::config::{Config, State};

/// What is wanted of a service or a server from now on; the rest stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Whether a service takes new flows.
    Service {
        /// Its name.
        service: String,
        /// Whether it does.
        enabled: bool,
    },
    /// Which flows a server takes.
    Server {
        /// The name of its service.
        service: String,
        /// Its own.
        server: String,
        /// What is wanted of it, if that changes.
        state: Option<State>,
        /// Its weight, if that changes.
        weight: Option<u16>,
    },
}

impl Wish {
    /// The configuration of `view` with the wish fulfilled.
    ///
    /// # Errors
    ///
    /// When there is no such service or server.
    pub(super) fn change(self, view: &View) -> Result<Change<Place>, Refusal> {
        let mut config = Config::clone(&view.config);
        let place = match self {
            Self::Service { service, enabled } => {
                let place = view.place(&service, None)?;
                config.services[place.service].enabled = enabled;
                place
            }
            Self::Server { service, server, state, weight } => {
                let place = view.place(&service, Some(&server))?;
                let servers = &mut config.services[place.service].servers;
                let own = &mut servers[place.server.unwrap_or_default()];
                own.state = state.unwrap_or(own.state);
                own.weight = weight.unwrap_or(own.weight);
                place
            }
        };
        let config = Arc::new(config);
        Ok(Change { config, file: None, is_whole: false, wished: Some(place), edited: place })
    }
}
