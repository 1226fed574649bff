//! An ICMP echo request that is answered.

use super::connect::outcome;
use super::{Failure, Target};
use crate::net::Net;

pub(super) async fn ask<N: Net>(net: &N, target: &Target) -> Result<(), Failure> {
    let address = target.at.ip();
    match net.ping(address).await {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure(format!("ping of {address} {}", outcome(&error)))),
    }
}
