//! A program of the operator's, which is told what ldirectord tells: the virtual address, its port, the server's
//! address, its port, and then what the operator added. It is killed with all that it started when its time is up.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitStatus;

use super::{Asking, Failure, Target, quoted};
use crate::script::{Said, Script};

pub(super) async fn run<N>(
    asking: &Asking<'_, N>,
    program: &Path,
    arguments: &[String],
) -> Result<(), Failure> {
    let told = |why: String| Failure(format!("script {} {why}", program.display()));
    let own = arguments.iter().map(Into::into);
    let script = Script {
        program,
        ground: &asking.tools.ground(),
        arguments: addresses(asking.target).into_iter().chain(own).collect(),
        input: b"",
    };
    let mut said = Said::default();
    let status = script.run(&mut said).await;
    let status = status.map_err(|error| told(format!("cannot be run: {error}")))?;
    match (status.success(), said.first_line()) {
        (true, _) => Ok(()),
        (false, []) => Err(told(ending(status))),
        (false, first) => Err(told(format!("{}: {}", ending(status), quoted(first)))),
    }
}

/// `0.0.0.0` and 0 where there is no virtual address.
fn addresses(target: &Target) -> [OsString; 4] {
    let at = target.at;
    let (address, port) = match target.service.1 {
        Some(service) => (service.ip().to_string(), service.port()),
        None => ("0.0.0.0".into(), 0),
    };
    [address, port.to_string(), at.ip().to_string(), at.port().to_string()].map(Into::into)
}

fn ending(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("ended with {code}"),
        None => "was killed".into(),
    }
}
