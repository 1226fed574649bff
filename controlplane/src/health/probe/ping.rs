//! An ICMP echo request that is answered.

use super::connect::outcome;
use super::{Asking, Failure};
use crate::net::Net;

pub(super) async fn ask<N: Net>(asking: &Asking<'_, N>) -> Result<(), Failure> {
    let address = asking.target.at.ip();
    match asking.net.ping(address, asking.target.way).await {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure(format!("ping of {address} {}", outcome(&error)))),
    }
}
