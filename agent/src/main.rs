//! The companion of a real server, behind Sluice or any load balancer that knows feedback agents or direct
//! return. One small program that depends on nothing:
//!
//! 1. [`arguments`]: what is wanted
//! 2. [`run`]: an agent from its start to its end
//! 3. [`idle`]: how idle this server is
//! 4. [`serve`]: whoever asks is told
//! 5. [`askers`]: who that is, and who of them knows that this server drains
//! 6. [`drain`]: when it has
//! 7. [`fix`]: the ARP problem solved, judged and undone
//! 8. [`decapsulate`]: packets taken out of tunnels
//!
//! Beneath them, [`netlink`] is how the kernel is told, and [`record`] remembers every change on disk *before*
//! it is made.

#![forbid(unsafe_code)]

mod arguments;

mod run;

mod idle;

mod serve;

mod askers;

mod drain;

mod fix;

mod decapsulate;

mod netlink;

mod record;

mod error;

use std::process::ExitCode;

use self::arguments::{Command, Fix};
use self::error::Error;
use self::record::{Change, Record};

fn main() -> ExitCode {
    let words: Vec<_> =
        std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let command = match arguments::parse(&words) {
        Ok(command) => command,
        Err(wrong) => {
            eprintln!("sluice-agent: {wrong}\nsluice-agent --help says what there is");
            return ExitCode::from(2);
        }
    };
    match carry_out(command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sluice-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(command: Command) -> Result<ExitCode, Error> {
    let told = |change: &Change| println!("{}", change.told());
    match command {
        Command::Run(wanted) => run::run(wanted, tell)?,
        Command::Once(idle) => print!("{}", run::once(idle)),
        Command::Fix(Fix { addresses, devices, state }) => {
            fix::fix(&addresses, &devices, &mut Record::open(&state)?, told)?;
        }
        Command::Unfix(state) => {
            fix::unfix(&state, |change| println!("undone: {}", change.told()))?;
        }
        Command::Verify(wanted) => return verify(&wanted),
        Command::Decapsulate(fix, tunnels) => run::decapsulate(&fix, &tunnels, tell)?,
        Command::Help(command) => print!("{}", arguments::help(command.as_deref())),
        Command::Version => println!("sluice-agent {}", env!("CARGO_PKG_VERSION")),
    }
    Ok(ExitCode::SUCCESS)
}

/// One line for each address.
fn verify(wanted: &Fix) -> Result<ExitCode, Error> {
    let mut code = ExitCode::SUCCESS;
    for &address in &wanted.addresses {
        match fix::problems(address, &wanted.devices)?.as_slice() {
            [] => println!("{address}: yes"),
            problems => {
                println!("{address}: no: {}", problems.join("; "));
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// What an operator may want to know later.
fn tell(what: &str) {
    eprintln!("sluice-agent: {what}");
}
