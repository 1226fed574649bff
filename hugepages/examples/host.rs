//! The host prepared, looked at and given back from the command line, by this crate alone: what
//! `tests/host/boot-host-test` runs on a real kernel.
//!
//! ```text
//! host status [--json]
//! host prepare [--pages N] [--gib-pages N] [--mount] [--plain] [--force] [CARD…]
//! host restore
//! ```

#![forbid(unsafe_code)]

use std::{error::Error, path::Path, process::ExitCode};

use hugepages::{
    DEFAULT_RECORD, Host, OnShortfall, PageSize, Plan, memory::PageRequest, prepare, restore,
    status,
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["status"] => show_status(false),
        ["status", "--json"] => show_status(true),
        ["prepare", rest @ ..] => plan(rest).and_then(|plan| {
            print!("{}", prepare(&Host::real(), &plan)?);
            Ok(())
        }),
        ["restore"] => give_back(),
        _ => {
            eprintln!("usage: host status [--json] | prepare [options] [card…] | restore");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn show_status(json: bool) -> Result<(), Box<dyn Error>> {
    let status = status(&Host::real(), Path::new(DEFAULT_RECORD))?;
    match json {
        true => println!("{}", serde_json::to_string_pretty(&status)?),
        false => print!("{status}"),
    }
    Ok(())
}

fn give_back() -> Result<(), Box<dyn Error>> {
    print!("{}", restore(&Host::real(), Path::new(DEFAULT_RECORD))?);
    Ok(())
}

fn plan(arguments: &[&str]) -> Result<Plan, Box<dyn Error>> {
    let mut plan = Plan::new(DEFAULT_RECORD);
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut pages = |size| -> Result<PageRequest, Box<dyn Error>> {
            let pages = arguments.next().ok_or("expected a number of pages")?.parse()?;
            Ok(PageRequest { size, pages, node: None })
        };
        match *argument {
            "--pages" => plan.pages.push(pages(PageSize::TwoMiB)?),
            "--gib-pages" => plan.pages.push(pages(PageSize::OneGiB)?),
            "--mount" => plan.mount = true,
            "--plain" => plan.on_shortfall = OnShortfall::Plain,
            "--force" => plan.force = true,
            card => plan.cards.push(card.parse()?),
        }
    }
    Ok(plan)
}
