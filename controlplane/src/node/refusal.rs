//! Why a request was refused.

use thiserror::Error;

use super::PATIENCE;
use crate::field::Invalid;
use crate::pages::files;
use crate::store;

/// Why a request was refused; nothing has changed.
#[derive(Debug, Error)]
pub enum Refusal {
    /// What was sent cannot be read at all.
    #[error("{0}")]
    Malformed(String),
    /// What was sent holds mistakes: all of them.
    #[error("nothing was changed: {}", in_words(.0))]
    Invalid(Vec<Invalid>),
    /// What was sent is right, but cannot be taken up by a running node.
    #[error(
        "nothing was changed: {} cannot be changed while the node runs; change the configuration \
         file and restart it",
        .0.join(", ")
    )]
    NotLive(Vec<String>),
    /// The caller's entity tag is not that of the configuration.
    #[error(
        "nothing was changed: the configuration has changed since you read it, and its entity tag \
         is now {now}; read it again"
    )]
    Stale {
        /// The entity tag of the configuration.
        now: String,
    },
    /// There is nothing of that name.
    #[error("there is no {0}")]
    NotFound(String),
    /// The name is taken.
    #[error("there is already a {0}; change it with PUT or PATCH")]
    Exists(String),
    /// A page is named by a service.
    #[error("the page {page} stays: it is the fallback of service {service}")]
    InUse {
        /// The page.
        page: String,
        /// One of the services that name it.
        service: String,
    },
    /// There are as many pages as there can be.
    #[error("there are {} pages already, and there can be no more; remove one first", files::MOST)]
    TooManyPages,
    /// Too many such requests are under way.
    #[error("too many such requests are under way; try again in a moment")]
    Busy,
    /// A worker has not answered.
    #[error("a worker has not answered within {} s; the log may say why", PATIENCE.as_secs())]
    Silent,
    /// The configuration could not be written to the disk.
    #[error("nothing was changed, because the configuration could not be kept: {0}")]
    Store(#[from] store::Error),
    /// A page of the operator's cannot be read, written or removed.
    #[error("{0}")]
    Page(store::Error),
    /// The program is at fault.
    #[error("the request could not be completed; the log says why")]
    Failed,
}

fn in_words(mistakes: &[Invalid]) -> String {
    match mistakes {
        [mistake] => mistake.to_string(),
        [mistake, rest @ ..] => format!("{mistake} (and {} more mistakes)", rest.len()),
        [] => "it holds mistakes".into(),
    }
}
